// Artifacts that `moeplan profile` measures a machine with.
#pragma once

#include "llvm/Support/Error.h"

#include <functional>
#include <string>
#include <vector>

namespace moeplan::compiler {

struct ProbeOptions {
  std::string directory;               ///< where they are written; made where it is missing
  std::vector<std::string> targetCpus; ///< as CompileOptions has them; empty: "host"
  /// Called with the probes done so far and in all; may be empty.
  std::function<void(uint64_t, uint64_t)> progress;
};

/// Compiles the probes: models with synthetic weights, one plan for each format of experts, named
/// after it; the other matrices have the same format, or int4g32 beside int3 and int2.
///   memory.moeplan   weights far larger than any cache
///   cache.moeplan    weights that a last-level cache holds, in short rows
///   layers.moeplan   many layers with hardly any weights: what a layer takes besides reading them;
///                    bf16 alone
/// Returns their paths.
llvm::Expected<std::vector<std::string>> makeProbes(const ProbeOptions &options);

} // namespace moeplan::compiler
