#include "compiler/codegen/image_cache.h"

#include "llvm/ADT/StringExtras.h"

using namespace llvm;
using namespace moeplan::compiler;

CacheKey moeplan::compiler::imageKey(const Nvrtc &nvrtc, const std::string &source,
                                     ArrayRef<CudaHeader> headers, const std::string &target) {
  CacheKey key("image");
  key.add(nvrtc.path()).add(nvrtc.version());
  for (const char *option : Nvrtc::options())
    key.add(option);
  key.add(target).add(source);
  for (const CudaHeader &header : headers)
    key.add(header.name).add(header.text);
  return key;
}

// An entry is the size of the log in a line, the log and the image.

std::optional<Nvrtc::Output> moeplan::compiler::findImage(const BuildCache &cache,
                                                          const CacheKey &key) {
  const std::unique_ptr<MemoryBuffer> entry = cache.find(key);
  if (!entry)
    return std::nullopt;
  const auto [head, body] = entry->getBuffer().split('\n');
  size_t logBytes = 0;
  if (head.getAsInteger(10, logBytes) || logBytes >= body.size())
    return std::nullopt;
  return Nvrtc::Output{body.drop_front(logBytes).str(), body.take_front(logBytes).str()};
}

void moeplan::compiler::storeImage(BuildCache &cache, const CacheKey &key,
                                   const Nvrtc::Output &output) {
  const std::string entry = std::to_string(output.log.size()) + "\n" + output.log + output.image;
  cache.store(key, arrayRefFromStringRef(entry));
}
