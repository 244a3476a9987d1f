// Which weights a plan keeps where.
#pragma once

#include "moeplan_generated.h"

#include <array>
#include <compare>
#include <cstdint>
#include <vector>

namespace moeplan {

/// A weight segment in a memory.
struct Held {
  uint32_t segment = 0;
  fb::Residency memory = fb::Residency::host;

  auto operator<=>(const Held &) const = default;
};

/// Whether a plan was made for a device with a memory of its own: it keeps experts there, or says
/// what to do about those that it does not. Others run on the host, wherever they are run.
bool usesDevice(const fb::Plan &plan);

struct PlanWeights {
  std::vector<Held> dense;                  ///< what programs name by itself; each once
  std::vector<std::array<Held, 3>> experts; ///< [num_layers * num_experts]: w1, w3, w2

  /// Each once, `dense` first, then in the order of layers.
  std::vector<Held> all() const;
};

/// Where `allOnDevice`, the residencies that it names are not asked.
PlanWeights weightsOf(const fb::Plan &plan, bool allOnDevice = false);

} // namespace moeplan
