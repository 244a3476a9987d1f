// Artifacts whose policy is wrong in one place: one case per rule of runtime/artifact/policy_facts.
#include "tests/fuzz/refusal.h"
#include "tests/support/artifact_builder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace moeplan::testing {
namespace {

TEST(PolicyRulesTest, MissStrategies) {
  auto plan = [](auto &&change) { return refusal([&](ArtifactDraft &d) { change(d.plans[0]); }); };
  auto miss = [&](fb::MissStrategy strategy, uint32_t slots) {
    return plan([=](PlanDraft &p) {
      p.missStrategy = strategy;
      p.cacheSlots = slots;
    });
  };
  using fb::MissStrategy;
  for (auto strategy : {MissStrategy::none, MissStrategy::stream, MissStrategy::in_place,
                        MissStrategy::host_compute}) {
    EXPECT_EQ(miss(strategy, 0), "");
    EXPECT_EQ(miss(strategy, 1),
              std::string("plan 'default': cache_slots is 1 with miss_strategy ") +
                  fb::EnumNameMissStrategy(strategy));
  }
  EXPECT_EQ(miss(MissStrategy::cached, 1), "");
  EXPECT_EQ(miss(MissStrategy::cached, 2), "");
  EXPECT_EQ(miss(MissStrategy::cached, 0),
            "plan 'default': cache_slots is 0 with miss_strategy cached");
  // There are two experts in a layer.
  EXPECT_EQ(miss(MissStrategy::cached, 3),
            "plan 'default': cache_slots is 3 with miss_strategy cached");
  for (auto beyond : {5, 255})
    EXPECT_EQ(miss(MissStrategy(beyond), 0), "plan 'default': unknown miss_strategy");

  auto onDevice = [&](MissStrategy strategy, size_t experts) {
    return plan([=](PlanDraft &p) {
      p.missStrategy = strategy;
      for (size_t i = 0; i < experts; ++i)
        p.experts[i] = fb::Expert(ArtifactDraft::kUp, ArtifactDraft::kUp, ArtifactDraft::kDown,
                                  fb::Residency::device);
    });
  };
  EXPECT_EQ(onDevice(MissStrategy::stream, 3), "");
  EXPECT_EQ(onDevice(MissStrategy::none, 4), "");
  EXPECT_EQ(onDevice(MissStrategy::stream, 4),
            "plan 'default': a miss_strategy without an expert in host memory");
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// Whether each number is refused, naming `field`, where `set` puts it, and each other one
/// accepted.
void expectRange(const std::string &field, std::initializer_list<double> refused,
                 std::initializer_list<double> accepted,
                 const std::function<void(ArtifactDraft &, double)> &set) {
  auto refusalOf = [&](double value) { return refusal([&](ArtifactDraft &d) { set(d, value); }); };
  for (double value : {kInfinity, -kInfinity, kNan})
    EXPECT_TRUE(refusalOf(value).starts_with(field + " is ")) << value << ": " << refusalOf(value);
  for (double value : refused)
    EXPECT_EQ(refusalOf(value), field + " is " + std::to_string(value));
  for (double value : accepted)
    EXPECT_EQ(refusalOf(value), "") << value;
}

TEST(PolicyRulesTest, LimitsOfPlans) {
  using D = ArtifactDraft;
  for (auto beyond : {3, 255})
    EXPECT_EQ(refusal([=](D &d) { d.plans[0].prefer = fb::Preference(beyond); }),
              "plan 'default': unknown prefer");
  for (auto known : {fb::Preference::quality, fb::Preference::throughput})
    EXPECT_EQ(refusal([=](D &d) { d.plans[0].prefer = known; }), "");
  expectRange("plan 'default': max_perplexity_increase", {-1, -2}, {-0.99, 0, 0.01, 100},
              [](D &d, double value) { d.plans[0].maxPerplexityIncrease = value; });
  expectRange("plan 'default': min_tokens_per_second", {-0.5}, {0, 30},
              [](D &d, double value) { d.plans[0].minTokensPerSecond = value; });
  expectRange("plan 'default': bits_per_weight", {0, -1}, {0.5, 4.5},
              [](D &d, double value) { d.plans[0].bitsPerWeight = value; });
  EXPECT_EQ(refusal([](D &d) {
              d.plans[0].deviceMemory = 0;
              d.plans[0].hostMemory = UINT64_MAX;
            }),
            "");
}

TEST(PolicyRulesTest, Predictions) {
  using D = ArtifactDraft;
  auto set = [](double PredictionDraft::*field) {
    return [=](D &d, double value) { d.plans[0].prediction.emplace().*field = value; };
  };
  expectRange("plan 'default': prediction: perplexity_increase", {-1}, {-0.5, 0, 0.3},
              set(&PredictionDraft::perplexityIncrease));
  expectRange("plan 'default': prediction: tokens_per_second", {-1}, {0, 100},
              set(&PredictionDraft::tokensPerSecond));
  expectRange("plan 'default': prediction: prefill_tokens_per_second", {-1}, {0, 1e4},
              set(&PredictionDraft::prefillTokensPerSecond));
  const uint64_t most = uint64_t(1) << 56;
  for (uint64_t MemoryDraft::*use :
       {&MemoryDraft::weights, &MemoryDraft::kvCache, &MemoryDraft::activations,
        &MemoryDraft::staging, &MemoryDraft::context})
    for (auto [memory, name] : {std::pair(&PredictionDraft::device, "device"),
                                std::pair(&PredictionDraft::host, "host")}) {
      auto refusalOf = [&](uint64_t bytes) {
        return refusal(
            [&](D &d) { (d.plans[0].prediction.emplace().*memory).emplace().*use = bytes; });
      };
      EXPECT_EQ(refusalOf(most), "");
      EXPECT_EQ(refusalOf(most + 1),
                std::string("plan 'default': prediction: ") + name + ": 72057594037927937 bytes");
    }
}

TEST(PolicyRulesTest, CanaryAndSwitching) {
  using D = ArtifactDraft;
  EXPECT_EQ(refusal([](D &d) { d.canary.emplace(); }), "");
  EXPECT_EQ(refusal([](D &d) { d.canary.emplace().tokens = 0; }), "canary: no tokens");
  expectRange("canary: max_perplexity_increase", {-1}, {-0.5, 0, 0.02},
              [](D &d, double value) { d.canary.emplace().maxPerplexityIncrease = value; });
  expectRange("canary: max_divergence", {-0.1}, {0, 0.1},
              [](D &d, double value) { d.canary.emplace().maxDivergence = value; });
  expectRange("switching: bandwidth_share", {0, -0.1, 1.1}, {0.01, 1},
              [](D &d, double value) { d.switching.emplace().bandwidthShare = value; });
  expectRange("switching: hysteresis", {-0.1, 1}, {0, 0.99},
              [](D &d, double value) { d.switching.emplace().hysteresis = value; });
  expectRange("switching: min_seconds", {-1}, {0, 3600},
              [](D &d, double value) { d.switching.emplace().minSeconds = value; });
}

TEST(PolicyRulesTest, CanaryText) {
  using D = ArtifactDraft;
  auto refusalOf = [](const std::function<void(CanaryTextDraft &, CanaryScoreDraft &)> &change) {
    return refusal(
        [&](D &d) { change(d.canary.emplace().text.emplace(), d.plans[0].canary.emplace()); });
  };
  using Text = CanaryTextDraft;
  using Score = CanaryScoreDraft;
  EXPECT_EQ(refusalOf([](Text &, Score &) {}), "");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.ids = {1}; }), "canary: token_ids has 1 ids");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.ids.assign(17, 1); }),
            "canary: token_ids has 17 ids");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.ids[2] = 8; }), "canary: token id 8");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.ids[0] = -1; }), "canary: token id -1");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.library = 1; }), "canary: no such kernel library");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.top = 0; }), "canary: reference_top is 0");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.top = 9; }), "canary: reference_top is 9");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.logLikelihoods.pop_back(); }),
            "canary: reference_log_likelihoods has 1 numbers, 2 expected");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.logLikelihoods[0] = 0.5f; }),
            "canary: reference_log_likelihoods is 0.500000");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.topLogProbabilities[3] = NAN; }),
            "canary: reference_log_probabilities is nan");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.topLogProbabilities.push_back(-1); }),
            "canary: reference_log_probabilities has 5 numbers, 4 expected");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.topTokens.pop_back(); }),
            "canary: reference_tokens has the wrong size");
  EXPECT_EQ(refusalOf([](Text &t, Score &) { t.topTokens[1] = 8; }), "canary: token id 8");
  EXPECT_EQ(refusalOf([](Text &, Score &s) { s.logLikelihoods.push_back(-1); }),
            "plan 'default': canary: log_likelihoods has 3 numbers, 2 expected");
  EXPECT_EQ(refusalOf([](Text &, Score &s) { s.divergence = INFINITY; }),
            "plan 'default': canary: divergence is inf");
  EXPECT_EQ(refusal([](D &d) { d.canary.emplace().text.emplace(); }),
            "plan 'default': canary is missing");
  EXPECT_EQ(refusal([](D &d) { d.plans[0].canary.emplace(); }),
            "plan 'default': canary without a text");
}

} // namespace
} // namespace moeplan::testing
