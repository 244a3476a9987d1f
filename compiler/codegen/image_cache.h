// Compiled CUDA kernels in a directory, by what they were compiled from.
#pragma once

#include "compiler/codegen/nvrtc.h"

#include <optional>
#include <string>

namespace moeplan::compiler {

/// May be used from several threads, and the directory by several processes: entries are written
/// beside their place and moved there.
class ImageCache {
public:
  /// Makes `directory` where it is not there; empty: nothing is kept.
  static llvm::Expected<ImageCache> open(std::string directory);

  /// Names all that decides the image: NVRTC, options, sources, target. Empty without a directory.
  std::string keyOf(const Nvrtc &nvrtc, const std::string &source,
                    llvm::ArrayRef<CudaHeader> headers, const std::string &target) const;
  /// Nothing where there is no such entry, or one that was damaged.
  std::optional<Nvrtc::Output> find(const std::string &key) const;
  llvm::Error store(const std::string &key, const Nvrtc::Output &output) const;

private:
  explicit ImageCache(std::string directory) : directory_(std::move(directory)) {}
  std::string pathOf(const std::string &key) const;

  std::string directory_;
};

} // namespace moeplan::compiler
