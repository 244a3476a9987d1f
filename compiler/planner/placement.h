// A placement of all experts, and what it costs.
#pragma once

#include "expert_kernels.h"
#include "formats.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace moeplan::compiler {

enum class Residency : uint8_t { Host, Device };

/// What happens when a token is routed to an expert in host memory, and the rest of the model runs
/// on a device.
enum class MissStrategy : uint8_t {
  None,        ///< there is no device, or no expert in host memory
  Stream,      ///< its weights are copied into a swap buffer on the device
  InPlace,     ///< the device's kernels read it where it is
  HostCompute, ///< the CPU computes it
  Cached       ///< as Stream, and the copy stays in one of the layer's slots until others need them
};
inline constexpr std::array<std::string_view, 5> kMissStrategyNames{"none", "stream", "in_place",
                                                                    "host_compute", "cached"};
inline constexpr std::string_view missStrategyName(MissStrategy strategy) {
  return kMissStrategyNames[size_t(strategy)];
}

inline std::optional<MissStrategy> findMissStrategy(std::string_view name) {
  for (size_t i = 0; i < kMissStrategyNames.size(); ++i)
    if (kMissStrategyNames[i] == name)
      return MissStrategy(i);
  return std::nullopt;
}

struct ExpertPlacement {
  std::array<const FormatInfo *, 3> formats{}; ///< by Linear: w1, w3, w2
  Residency residency = Residency::Host;
  bool operator==(const ExpertPlacement &) const = default;
};

struct Placement {
  std::vector<ExpertPlacement> experts; ///< [num_layers * num_experts], layer first
  MissStrategy miss = MissStrategy::None;
  uint32_t cacheSlots = 0; ///< per layer, where `miss` is Cached
};

/// What a memory is used for, in bytes.
struct MemoryUse {
  uint64_t weights = 0;     ///< of experts and of everything else
  uint64_t kvCache = 0;     ///< for the policy's context and batch
  uint64_t activations = 0; ///< the largest arena of the plan's programs
  uint64_t staging = 0;     ///< swap buffers and cache slots for experts of the other memory
  uint64_t context = 0;     ///< what the device's driver takes
  uint64_t total() const { return weights + kvCache + activations + staging + context; }
};

/// What a placement costs: bytes exactly, quality and speed as predicted.
struct PlacementCosts {
  double nats = 0;               ///< increase of the negative log-likelihood per token over 16 bits
  double perplexityIncrease = 0; ///< exp(nats) - 1
  double decodeSeconds = 0;      ///< of one step of the policy's batch
  double tokensPerSecond = 0;    ///< of all sequences of the batch together
  double prefillTokensPerSecond = 0;
  MemoryUse device, host;
  double bitsPerWeight = 0; ///< mean over the experts, scales included
  uint32_t expertsOnDevice = 0;
};

} // namespace moeplan::compiler
