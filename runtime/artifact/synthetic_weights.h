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

/// What has been generated stays where it is. Generating wants a lock; reading what has been does
/// not.
class SyntheticWeights {
public:
  SyntheticWeights() = default; ///< none
  explicit SyntheticWeights(const fb::Artifact &artifact) : bytes_(artifact.segments()->size()) {}

  /// Generates those of `segments` that are synthetic and have not been, on `threads` threads; the
  /// bytes do not depend on how many. MOEPLAN_RESOURCE_EXHAUSTED where the machine has not that
  /// much memory left.
  Status generate(const fb::Artifact &artifact, const SyntheticGenerator &generator,
                  std::span<const uint32_t> segments, unsigned threads);

  /// The bytes of segment `index`, page-aligned; empty where it has not been generated.
  std::span<const std::byte> operator[](uint32_t index) const { return bytes_[index]; }

private:
  std::vector<HostMemory> memory_;
  std::vector<std::span<std::byte>> bytes_; ///< per segment
};

} // namespace moeplan
