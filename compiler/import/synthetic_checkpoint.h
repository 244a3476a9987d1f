// A checkpoint of random weights on disk.
#pragma once

#include "llvm/Support/Error.h"

#include <cstdint>
#include <functional>
#include <string>

namespace moeplan::compiler {

struct SyntheticCheckpointOptions {
  std::string config; ///< a config.json
  uint64_t seed = 0;
  std::string output;                         ///< directory: new or empty
  uint64_t maxShardBytes = uint64_t(4) << 30; ///< of tensors in one file; one tensor may be larger
  std::function<void(uint64_t, uint64_t)>
      progress; ///< bytes written so far and in all; may be empty
};

struct SyntheticCheckpointReport {
  uint64_t weightBytes = 0;
  size_t files = 0; ///< of weights
};

/// Writes a checkpoint of `config`: the configuration as it is, and bf16 weights that are
/// statistically like trained ones (see SyntheticGenerator), in one file or in shards with an
/// index. No tokenizer. The same configuration and seed give the same bytes; memory does not grow
/// with the model. Errors are single lines; nothing that was written is left behind then.
llvm::Expected<SyntheticCheckpointReport>
writeSyntheticCheckpoint(const SyntheticCheckpointOptions &options);

} // namespace moeplan::compiler
