// Frontiers with made-up but plausible numbers, as a planner would give them.
#pragma once

#include "compiler/explore/frontier.h"

namespace moeplan::testing {

struct ExampleShape {
  uint32_t numLayers = 32, numExperts = 8;
  bool hasDevice = true, measured = false;
  uint32_t numBudgets = 10; ///< for each planner
  bool paper = true, tiers = true;
};

/// Marked; the same for the same shape.
compiler::Frontier exampleFrontier(const ExampleShape &shape);

} // namespace moeplan::testing
