// Brings weights from a checkpoint, quantised or converted, into the file of an artifact.
#pragma once

#include "compiler/cache/build_cache.h"
#include "compiler/calibrate/weight_quantizer.h"
#include "compiler/import/checkpoint_digest.h"
#include "compiler/pack/atomic_file.h"

#include <functional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// A segment of weights.
struct StreamedWeight {
  std::string name;         ///< in the model: "layers.3.experts.5.w2"
  const TensorInfo *tensor; ///< borrowed
  const FormatInfo *format;
  uint64_t offset, bytes; ///< in the file, which is that long already
  uint64_t checksum = 0;  ///< filled in: XXH3-64 of the bytes
};

struct WeightStreamReport {
  size_t quantized = 0; ///< weights
  size_t fromCache = 0; ///< weights that had been quantised before
};

/// Called with the bytes of weights written so far and in all, from one thread.
using PackProgress = std::function<void(uint64_t done, uint64_t total)>;

/// What a stream works with; all is borrowed, and used by nobody else meanwhile.
struct WeightStreamTools {
  const Checkpoint &checkpoint;
  CheckpointDigest &digest;
  BuildCache &cache; ///< of quantised weights
  WeightQuantizer &quantizer;
  AtomicFile &file;
  const PackProgress &progress; ///< may be empty
};

/// Writes all `weights`, each tensor read once for all its formats. Three things go on at a time:
/// the next tensors are read, one is quantised on all cores, the last are written. In memory are
/// three tensors and as many segments at most, whatever the model.
llvm::Expected<WeightStreamReport> streamWeights(std::vector<StreamedWeight> &weights,
                                                 const WeightStreamTools &tools);

} // namespace moeplan::compiler
