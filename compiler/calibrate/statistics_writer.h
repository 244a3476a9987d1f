// Writing a .moestats file.
#pragma once

#include "compiler/calibrate/statistics.h"
#include "compiler/pack/atomic_file.h"

#include <functional>

namespace moeplan::compiler {

/// What a file of statistics says besides moments and sensitivities.
struct StatisticsHead {
  std::string compilerVersion, checkpointDigest, textDigest;
  uint32_t context = 0, windows = 0, heldOutWindows = 0;
  uint64_t tokens = 0;
  uint32_t hiddenSize = 0, intermediateSize = 0, numLayers = 0, numExperts = 0,
           numExpertsPerToken = 0;
  double heldOutNll = 0;
};

/// One expert's numbers; blocks are columns.
struct ExpertMoments {
  uint64_t tokens = 0;
  double routingWeight = 0;
  uint32_t inputBlock = 1, hiddenBlock = 1;
};

/// Writes and commits. `triangles` gives the moments of the input (false) or the hidden activations
/// (true) of expert `index`, momentCount() numbers; it is called once for each, in the order of the
/// file. Returns the size of the file.
llvm::Expected<uint64_t>
writeStatistics(AtomicFile &file, const StatisticsHead &head, llvm::ArrayRef<ExpertMoments> experts,
                llvm::ArrayRef<fb::Sensitivity> sensitivities,
                llvm::function_ref<std::vector<float>(uint64_t index, bool hidden)> triangles);

} // namespace moeplan::compiler
