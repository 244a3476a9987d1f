// The synthetic weights of an artifact, in memory.
#pragma once

#include "moeplan_generated.h"
#include "runtime/artifact/synthetic_generator.h"
#include "runtime/device/memory.h"
#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace moeplan {

/// A generator that is ready for every synthetic weight of an artifact.
SyntheticGenerator syntheticGeneratorOf(const fb::Artifact &artifact);
/// What it is told of a segment.
SyntheticWeight syntheticWeightOf(const fb::Segment &segment);

/// Immutable once generated; may be used from several threads.
class SyntheticWeights {
public:
  SyntheticWeights() = default; ///< none

  /// Generates all of them on `threads` threads; the bytes do not depend on how many.
  /// MOEPLAN_RESOURCE_EXHAUSTED where the machine has not that much memory left.
  static Result<SyntheticWeights> generate(const fb::Artifact &artifact,
                                           const SyntheticGenerator &generator, unsigned threads);

  bool empty() const { return bytes_.empty(); }
  /// The bytes of segment `index`, page-aligned; empty where it is not synthetic.
  std::span<const std::byte> operator[](uint32_t index) const { return bytes_[index]; }

private:
  HostMemory memory_;
  std::vector<std::span<std::byte>> bytes_; ///< per segment
};

} // namespace moeplan
