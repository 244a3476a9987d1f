#include "runtime/control/plan_ranking.h"

#include <algorithm>
#include <utility>

namespace moeplan {

namespace {

/// Both are better where they are smaller.
struct Merits {
  const fb::Plan *plan;
  double loss, time;
};

double expertBytes(const fb::Artifact &artifact, const fb::Plan &plan) {
  double bytes = 0;
  for (const fb::Expert *expert : *plan.experts())
    for (uint32_t segment : {expert->w1(), expert->w3(), expert->w2()})
      bytes += static_cast<double>(artifact.segments()->Get(segment)->extent()->bytes());
  return bytes;
}

/// The divergence that was measured on the canary; the perplexity that was predicted where there is
/// none; else the fewer bytes, the more.
double lossOf(const fb::Artifact &artifact, const fb::Plan &plan, bool predicted) {
  if (const fb::CanaryScore *score = plan.canary())
    return score->divergence();
  return predicted ? plan.prediction()->perplexity_increase() : -expertBytes(artifact, plan);
}

std::vector<Merits> meritsOf(const fb::Artifact &artifact) {
  const auto &plans = *artifact.plans();
  const bool predicted = std::all_of(plans.begin(), plans.end(), [](const fb::Plan *plan) {
    return plan->prediction() != nullptr;
  });
  std::vector<Merits> merits;
  for (const fb::Plan *plan : plans) {
    const fb::Prediction *prediction = plan->prediction();
    merits.push_back(
        {plan, lossOf(artifact, *plan, predicted),
         predicted ? -prediction->tokens_per_second()
                   : static_cast<double>(plan->programs()->Get(0)->weight_bytes_per_token())});
  }
  return merits;
}

std::vector<const fb::Plan *> rank(const fb::Artifact &artifact, bool byQuality) {
  std::vector<Merits> merits = meritsOf(artifact);
  std::stable_sort(merits.begin(), merits.end(), [&](const Merits &a, const Merits &b) {
    return byQuality ? std::pair(a.loss, a.time) < std::pair(b.loss, b.time)
                     : std::pair(a.time, a.loss) < std::pair(b.time, b.loss);
  });
  std::vector<const fb::Plan *> plans;
  for (const Merits &merit : merits)
    plans.push_back(merit.plan);
  return plans;
}

} // namespace

std::vector<const fb::Plan *> rankPlans(const fb::Artifact &artifact) {
  return rank(artifact, artifact.plans()->Get(0)->prefer() != fb::Preference::throughput);
}

std::vector<const fb::Plan *> rankPlansByQuality(const fb::Artifact &artifact) {
  return rank(artifact, true);
}

} // namespace moeplan
