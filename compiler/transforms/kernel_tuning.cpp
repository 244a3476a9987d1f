#include "compiler/transforms/kernel_tuning.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"

using namespace llvm;
using namespace moeplan::compiler;

namespace {

constexpr int64_t kMostTileBytes = int64_t(1) << 30, kMostPrefetchBytes = 1 << 20;

} // namespace

Expected<KernelTuning> KernelTuning::parse(StringRef text) {
  KernelTuning tuning;
  SmallVector<StringRef> entries;
  text.split(entries, ',', -1, /*KeepEmpty=*/false);
  for (StringRef entry : entries) {
    auto fail = [&](const Twine &reason) {
      return createStringError("tuning '" + entry + "': " + reason);
    };
    auto [key, number] = entry.trim().split('=');
    int64_t value = 0;
    if (number.getAsInteger(10, value) || value < 0)
      return fail("a number is missing");
    if (key == "tile") {
      if (value == 0 || value > kMostTileBytes)
        return fail("a tile has 1 to " + Twine(kMostTileBytes) + " bytes");
      tuning.tileBytes = value;
      continue;
    }
    auto [width, parameter] = key.split('.');
    const auto *found = find(kWidths, width);
    if (found == kWidths.end() || (parameter != "prefetch" && parameter != "unroll"))
      return fail("'tile', 'WIDTH.prefetch' or 'WIDTH.unroll' expected, WIDTH one of f32, bf16, "
                  "int8, int4, int3, int2");
    FormatTuning &format = tuning.formats[found - kWidths.begin()];
    if (parameter == "prefetch" && value > kMostPrefetchBytes)
      return fail("at most " + Twine(kMostPrefetchBytes) + " bytes ahead");
    if (parameter == "unroll" && value != 1 && value != 2 && value != 4)
      return fail("unrolled 1, 2 or 4 times");
    (parameter == "prefetch" ? format.prefetchBytes : format.unroll) = value;
  }
  return tuning;
}

std::string KernelTuning::print() const {
  const KernelTuning defaults;
  std::string text;
  auto add = [&](const Twine &key, int64_t value, int64_t usual) {
    if (value != usual)
      text += (text.empty() ? "" : ",") + (key + "=" + Twine(value)).str();
  };
  add("tile", tileBytes, defaults.tileBytes);
  for (auto [name, format, usual] : zip(kWidths, formats, defaults.formats)) {
    add(name + ".prefetch", format.prefetchBytes, usual.prefetchBytes);
    add(name + ".unroll", format.unroll, usual.unroll);
  }
  return text;
}
