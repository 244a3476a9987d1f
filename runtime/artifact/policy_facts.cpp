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

/// Likelihoods, of which `what` has `count`; rounding may put them a little above 1.
Status checkLikelihoods(const char *what, const flatbuffers::Vector<float> *values, size_t count) {
  constexpr float kMost = 1e-3f;
  if (!values || values->size() != count)
    return corrupt(std::string(what) + " has " + std::to_string(values ? values->size() : 0) +
                   " numbers, " + std::to_string(count) + " expected");
  for (float value : *values)
    MOEPLAN_TRY(checkNumber(what, value, value <= kMost));
  return {};
}

/// The text of a canary and what the reference makes of it.
Status checkCanaryText(const fb::Artifact &artifact, const fb::Canary &canary) {
  const fb::Model &model = *artifact.model();
  const auto &ids = *canary.token_ids();
  if (ids.size() < 2 || ids.size() > model.max_position_embeddings())
    return corrupt("token_ids has " + std::to_string(ids.size()) + " ids");
  for (int32_t id : ids)
    if (id < 0 || static_cast<uint32_t>(id) >= model.vocab_size())
      return corrupt("token id " + std::to_string(id));
  if (canary.library() >= artifact.libraries()->size())
    return corrupt("no such kernel library");
  if (artifact.libraries()->Get(canary.library())->machine() != fb::Machine::cpu)
    return corrupt("its kernel library is not a CPU's");
  const size_t predicted = ids.size() - 1, top = canary.reference_top();
  if (top == 0 || top > model.vocab_size())
    return corrupt("reference_top is " + std::to_string(top));
  MOEPLAN_TRY(
      checkLikelihoods("reference_log_likelihoods", canary.reference_log_likelihoods(), predicted));
  MOEPLAN_TRY(checkLikelihoods("reference_log_probabilities", canary.reference_log_probabilities(),
                               predicted * top));
  const auto *tokens = canary.reference_tokens();
  if (!tokens || tokens->size() != predicted * top)
    return corrupt("reference_tokens has the wrong size");
  for (uint32_t id : *tokens)
    if (id >= model.vocab_size())
      return corrupt("token id " + std::to_string(id));
  return {};
}

Status checkCanary(const fb::Artifact &artifact, const fb::Canary &canary) {
  if (canary.tokens() == 0)
    return corrupt("no tokens");
  MOEPLAN_TRY(checkFraction("max_perplexity_increase", canary.max_perplexity_increase()));
  MOEPLAN_TRY(checkNonNegative("max_divergence", canary.max_divergence()));
  return canary.token_ids() ? checkCanaryText(artifact, canary) : Status();
}

/// Every plan has a score where the canary has a text.
Status checkCanaryScores(const fb::Artifact &artifact) {
  const auto *ids = artifact.canary() ? artifact.canary()->token_ids() : nullptr;
  for (const fb::Plan *plan : *artifact.plans()) {
    const std::string context = "plan '" + plan->name()->str() + "': canary";
    const fb::CanaryScore *score = plan->canary();
    if ((ids != nullptr) != (score != nullptr))
      return corrupt(context + (score ? " without a text" : " is missing"));
    if (!score)
      continue;
    MOEPLAN_TRY(checkLikelihoods("log_likelihoods", score->log_likelihoods(), ids->size() - 1)
                    .withContext(context));
    MOEPLAN_TRY(checkNumber("divergence", score->divergence(), true).withContext(context));
  }
  return {};
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
  if (artifact.canary())
    MOEPLAN_TRY(checkCanary(artifact, *artifact.canary()).withContext("canary"));
  MOEPLAN_TRY(checkCanaryScores(artifact));
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
