// The whole road from a checkpoint to an artifact.
#pragma once

#include "llvm/Support/Error.h"
#include "llvm/Support/raw_ostream.h"

#include <functional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// Where compilation stops; each is a border with a verified form.
enum class Phase {
  Moe,     ///< imported: the model as it is
  Placed,  ///< one placed and fused copy of it per tier
  Plan,    ///< plans with offsets and barriers
  Artifact ///< the .moeplan file
};

struct CompileOptions {
  std::string checkpoint;              ///< directory
  std::string policy;                  ///< TOML file; empty: defaultPolicy()
  std::string output;                  ///< file; empty: standard output for IR
  std::vector<std::string> targetCpus; ///< overrides the policy's; empty: the policy's, or "host"
  Phase compileTo = Phase::Artifact;
  std::string dumpPhasesTo;     ///< directory for moe.mlir, placed.mlir, plan.mlir
  bool printIrAfterAll = false; ///< to stderr, after each pass
  bool timing = false;          ///< of each pass, to stderr
  /// Called with the bytes of weights packed so far and in all; may be empty.
  std::function<void(uint64_t, uint64_t)> progress;
};

/// What was made, for the closing line of a tool.
struct CompileReport {
  uint64_t fileBytes = 0;
  size_t plans = 0, kernels = 0;
  std::vector<std::string> targetCpus;
};

/// Compiles. Errors are single lines for the user; IR is never printed into them.
llvm::Expected<CompileReport> compile(const CompileOptions &options);

} // namespace moeplan::compiler
