// Which plan is better than which.
#pragma once

#include "moeplan_generated.h"

#include <cstdint>
#include <vector>

namespace moeplan {

/// The plans of an artifact from the best to the worst by what its first plan prefers: quality
/// where that says nothing. Quality is the divergence that the canary measured, whose few hundred
/// tokens tell plans apart by it long before they do by perplexity; else the predicted perplexity
/// where every plan has a prediction, else the bits of the experts' weights. Throughput is the
/// predicted one, or else the fewest bytes per token. Among equals the other one decides, then the
/// order in the artifact.
std::vector<const fb::Plan *> rankPlans(const fb::Artifact &artifact);

/// The same by quality alone.
std::vector<const fb::Plan *> rankPlansByQuality(const fb::Artifact &artifact);

} // namespace moeplan
