// Compiled CUDA kernels in the cache, by what they were compiled from.
#pragma once

#include "compiler/cache/build_cache.h"
#include "compiler/codegen/nvrtc.h"

#include <optional>
#include <string>

namespace moeplan::compiler {

/// Names all that decides the image: NVRTC, options, sources, target.
CacheKey imageKey(const Nvrtc &nvrtc, const std::string &source, llvm::ArrayRef<CudaHeader> headers,
                  const std::string &target);
/// Nothing where there is no such entry.
std::optional<Nvrtc::Output> findImage(const BuildCache &cache, const CacheKey &key);
void storeImage(BuildCache &cache, const CacheKey &key, const Nvrtc::Output &output);

} // namespace moeplan::compiler
