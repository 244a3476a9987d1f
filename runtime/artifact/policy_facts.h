// What an artifact says of its policy: limits, predictions, the canary, how plans are switched.
#pragma once

#include "moeplan_generated.h"
#include "runtime/support/status.h"

namespace moeplan {

/// MOEPLAN_CORRUPT where `plan`, whose expert table is valid, has a strategy for misses that it
/// cannot follow, or a limit or a prediction that no plan can have.
Status checkPlanFacts(const fb::Model &model, const fb::Plan &plan);

/// MOEPLAN_CORRUPT where the canary or the switching of plans has a number that means nothing.
Status checkPolicyFacts(const fb::Artifact &artifact);

} // namespace moeplan
