// What the plans of a module store, share and differ in.
#pragma once

#include "mlir/IR/BuiltinOps.h"

#include <cstdint>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// Bytes of weights, exactly: they lie in the artifact uncompressed. Of a synthetic model they are
/// what a runtime generates.
struct StorageReport {
  struct Plan {
    std::string name;
    uint64_t weightBytes = 0; ///< of the segments it uses
    uint64_t ownBytes = 0;    ///< of those that no other plan uses
    uint64_t arenaBytes = 0;  ///< the largest of its programs
  };
  std::vector<Plan> plans;
  uint64_t storedBytes = 0; ///< every distinct (tensor, format) once
  uint64_t sumBytes = 0;    ///< over plans
  uint64_t segments = 0;    ///< distinct ones
  /// [from][to]: bytes that a switch has to bring into a memory where they were not.
  std::vector<std::vector<uint64_t>> switchBytes;
};

/// Of a module in the plan dialect.
StorageReport storageOf(mlir::ModuleOp module);

} // namespace moeplan::compiler
