#include "runtime/artifact/policy_facts.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace moeplan {

namespace {

/// Of each use of a memory; their sum cannot overflow.
constexpr uint64_t kMaxMemoryBytes = uint64_t(1) << 56;

Status checkNumber(const char *name, double value, bool inRange) {
  if (std::isfinite(value) && inRange)
    return {};
  return corrupt(std::string(name) + " is " + std::to_string(value));
}

/// A change as a fraction; -1 would leave nothing.
Status checkFraction(const char *name, flatbuffers::Optional<double> value) {
  return value ? checkNumber(name, *value, *value > -1) : Status();
}

Status checkNonNegative(const char *name, flatbuffers::Optional<double> value) {
  return value ? checkNumber(name, *value, *value >= 0) : Status();
}

Status checkMisses(const fb::Model &model, const fb::Plan &plan) {
  const fb::MissStrategy strategy = plan.miss_strategy();
  if (strategy > fb::MissStrategy::MAX)
    return corrupt("unknown miss_strategy");
  const uint32_t slots = plan.cache_slots();
  if ((strategy == fb::MissStrategy::cached) != (slots > 0) || slots > model.num_experts())
    return corrupt("cache_slots is " + std::to_string(slots) + " with miss_strategy " +
                   fb::EnumNameMissStrategy(strategy));
  if (strategy != fb::MissStrategy::none &&
      std::none_of(plan.experts()->begin(), plan.experts()->end(), [](const fb::Expert *expert) {
        return expert->residency() == fb::Residency::host;
      }))
    return corrupt("a miss_strategy without an expert in host memory");
  return {};
}

Status checkMemory(const fb::Memory *memory) {
  if (!memory)
    return {};
  for (uint64_t bytes : {memory->weights(), memory->kv_cache(), memory->activations(),
                         memory->staging(), memory->context()})
    if (bytes > kMaxMemoryBytes)
      return corrupt(std::to_string(bytes) + " bytes");
  return {};
}

Status checkPrediction(const fb::Prediction &prediction) {
  MOEPLAN_TRY(checkFraction("perplexity_increase", prediction.perplexity_increase()));
  MOEPLAN_TRY(checkNonNegative("tokens_per_second", prediction.tokens_per_second()));
  MOEPLAN_TRY(
      checkNonNegative("prefill_tokens_per_second", prediction.prefill_tokens_per_second()));
  MOEPLAN_TRY(checkMemory(prediction.device()).withContext("device"));
  return checkMemory(prediction.host()).withContext("host");
}

} // namespace

Status checkPlanFacts(const fb::Model &model, const fb::Plan &plan) {
  MOEPLAN_TRY(checkMisses(model, plan));
  if (plan.prefer() > fb::Preference::MAX)
    return corrupt("unknown prefer");
  MOEPLAN_TRY(checkFraction("max_perplexity_increase", plan.max_perplexity_increase()));
  MOEPLAN_TRY(checkNonNegative("min_tokens_per_second", plan.min_tokens_per_second()));
  if (const auto bits = plan.bits_per_weight())
    MOEPLAN_TRY(checkNumber("bits_per_weight", *bits, *bits > 0));
  if (!plan.prediction())
    return {};
  return checkPrediction(*plan.prediction()).withContext("prediction");
}

Status checkPolicyFacts(const fb::Artifact &artifact) {
  if (const fb::Canary *canary = artifact.canary()) {
    if (canary->tokens() == 0)
      return corrupt("canary: no tokens");
    MOEPLAN_TRY(
        checkFraction("canary: max_perplexity_increase", canary->max_perplexity_increase()));
    MOEPLAN_TRY(checkNonNegative("canary: max_divergence", canary->max_divergence()));
  }
  if (const fb::Switching *switching = artifact.switching()) {
    const double share = switching->bandwidth_share(), hysteresis = switching->hysteresis();
    MOEPLAN_TRY(checkNumber("switching: bandwidth_share", share, share > 0 && share <= 1));
    MOEPLAN_TRY(
        checkNumber("switching: hysteresis", hysteresis, hysteresis >= 0 && hysteresis < 1));
    MOEPLAN_TRY(checkNonNegative("switching: min_seconds", switching->min_seconds()));
  }
  return {};
}

} // namespace moeplan
