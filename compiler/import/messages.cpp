#include "compiler/import/messages.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/JSON.h"

#include <nlohmann/json.hpp>

using namespace llvm;

namespace moeplan::compiler {

namespace {

/// Characters of a found value that a message repeats.
constexpr size_t kMaxDescription = 100;

} // namespace

Error importError(const Twine &message) {
  std::string line;
  for (char c : message.str()) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      line += "\\x" + toHex(StringRef(&c, 1), /*LowerCase=*/true);
    else
      line += c;
  }
  return createStringError(inconvertibleErrorCode(), Twine(json::fixUTF8(line)));
}

std::string describe(const nlohmann::json *value) {
  if (!value)
    return "missing";
  std::string text = value->dump();
  // Between elements as people write it: "[2, 3]".
  if (value->is_array() && all_of(*value, [](auto &item) { return item.is_number(); }))
    text = "[" + join(map_range(*value, [](auto &item) { return item.dump(); }), ", ") + "]";
  if (text.size() > kMaxDescription)
    text = text.substr(0, kMaxDescription) + "...";
  return "file has " + text;
}

std::string formatShape(ArrayRef<uint64_t> shape) {
  return "[" + join(map_range(shape, [](uint64_t extent) { return utostr(extent); }), ", ") + "]";
}

} // namespace moeplan::compiler
