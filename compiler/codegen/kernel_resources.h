// What a CUDA kernel takes of the device that runs it.
#pragma once

#include "llvm/ADT/StringRef.h"

#include <cstdint>
#include <optional>

namespace moeplan::compiler {

/// What a kernel takes of a multiprocessor, as ptxas says it; nothing known of PTX.
struct KernelResources {
  std::optional<uint32_t> registers; ///< of a thread
  uint32_t sharedBytes = 0;          ///< of a block
  uint32_t spillBytes = 0;           ///< stores and loads of a thread

  /// Reads the log of a compilation.
  static KernelResources parse(llvm::StringRef log);
};

} // namespace moeplan::compiler
