#include "compiler/codegen/image_cache.h"

#include "compiler/pack/atomic_file.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <xxhash.h>

using namespace llvm;
using namespace moeplan::compiler;

namespace {

std::string hex(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  return toHex(ArrayRef(bytes.digest), /*LowerCase=*/true);
}

/// An entry is a line of this, the size of the log and a checksum; then the log and the image.
constexpr StringLiteral kMagic = "moeplan-image";

std::string checksumOf(StringRef bytes) { return hex(XXH3_128bits(bytes.data(), bytes.size())); }

} // namespace

Expected<ImageCache> ImageCache::open(std::string directory) {
  if (!directory.empty())
    if (std::error_code error = sys::fs::create_directories(directory))
      return createStringError(directory + ": " + error.message());
  return ImageCache(std::move(directory));
}

std::string ImageCache::keyOf(const Nvrtc &nvrtc, const std::string &source,
                              ArrayRef<CudaHeader> headers, const std::string &target) const {
  if (directory_.empty())
    return {};
  std::string text;
  auto add = [&](StringRef part) {
    text += std::to_string(part.size());
    text += ':';
    text += part;
  };
  add(nvrtc.path());
  add(nvrtc.version());
  for (const char *option : Nvrtc::options())
    add(option);
  add(target);
  add(source);
  for (const CudaHeader &header : headers) {
    add(header.name);
    add(header.text);
  }
  return checksumOf(text);
}

std::string ImageCache::pathOf(const std::string &key) const {
  SmallString<128> path(directory_);
  sys::path::append(path, key + ".image");
  return path.str().str();
}

std::optional<Nvrtc::Output> ImageCache::find(const std::string &key) const {
  if (directory_.empty())
    return std::nullopt;
  auto file =
      MemoryBuffer::getFile(pathOf(key), /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!file)
    return std::nullopt;
  auto [head, body] = (*file)->getBuffer().split('\n');
  SmallVector<StringRef> fields;
  head.split(fields, ' ');
  size_t logBytes = 0;
  if (fields.size() != 3 || fields[0] != kMagic || fields[1].getAsInteger(10, logBytes) ||
      logBytes >= body.size() || fields[2] != checksumOf(body))
    return std::nullopt;
  return Nvrtc::Output{body.drop_front(logBytes).str(), body.take_front(logBytes).str()};
}

Error ImageCache::store(const std::string &key, const Nvrtc::Output &output) const {
  if (directory_.empty())
    return Error::success();
  const std::string body = output.log + output.image;
  return writeTextFile(
      pathOf(key),
      (kMagic + " " + Twine(output.log.size()) + " " + checksumOf(body) + "\n" + body).str());
}
