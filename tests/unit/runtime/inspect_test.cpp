// What an artifact says of its policy, as `moeplan inspect --json` prints it.
#include "runtime/artifact/artifact.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace moeplan::testing {
namespace {

using Json = nlohmann::json;

Json inspect(const ArtifactDraft &draft) {
  TemporaryDirectory directory;
  const std::string path = directory.path() / "a.moeplan";
  draft.write(path);
  auto artifact = Artifact::open(path);
  EXPECT_TRUE(artifact.ok());
  return Json::parse(inspectArtifact(*artifact.value()));
}

TEST(InspectTest, WithoutAPolicyNothingIsClaimed) {
  const Json json = inspect(ArtifactDraft());
  EXPECT_TRUE(json.at("canary").is_null());
  EXPECT_TRUE(json.at("switching").is_null());
  EXPECT_EQ(json.at("provenance").at("profile_digest"), "");
  const Json &plan = json.at("plans").at(0);
  EXPECT_EQ(plan.at("miss_strategy"), "none");
  EXPECT_EQ(plan.at("cache_slots"), 0);
  EXPECT_EQ(plan.at("prefer"), "none");
  EXPECT_TRUE(plan.at("prediction").is_null());
  for (const auto &[name, limit] : plan.at("limits").items())
    EXPECT_TRUE(limit.is_null()) << name;
}

TEST(InspectTest, LimitsPredictionCanaryAndSwitching) {
  ArtifactDraft draft;
  draft.profileDigest = "abc";
  draft.canary = CanaryDraft{128, 1000, 0.02, {}, CanaryTextDraft()};
  draft.plans[0].canary.emplace();
  draft.switching = SwitchingDraft{0.25, 0.125, 5};
  PlanDraft &plan = draft.plans[0];
  plan.missStrategy = fb::MissStrategy::cached;
  plan.cacheSlots = 2;
  plan.prefer = fb::Preference::throughput;
  plan.maxPerplexityIncrease = 0.01;
  plan.minTokensPerSecond = 30;
  plan.bitsPerWeight = 4.5;
  plan.deviceMemory = uint64_t(24) << 30;
  PredictionDraft &prediction = plan.prediction.emplace();
  prediction.perplexityIncrease = 0.008;
  prediction.tokensPerSecond = 31.5;
  prediction.prefillTokensPerSecond = 900;
  prediction.host = MemoryDraft{1, 2, 3, 4, 5};
  prediction.context = 4096;
  prediction.batch = 1;
  prediction.profileDigest = "abc";

  const Json json = inspect(draft);
  EXPECT_EQ(json.at("canary"), Json::parse(R"({"tokens": 128, "every_tokens": 1000,
      "max_perplexity_increase": 0.02, "max_divergence": null, "predicted_tokens": 2})"));
  EXPECT_EQ(json.at("switching"),
            Json::parse(R"({"bandwidth_share": 0.25, "hysteresis": 0.125, "min_seconds": 5.0})"));
  EXPECT_EQ(json.at("provenance").at("profile_digest"), "abc");
  const Json &described = json.at("plans").at(0);
  EXPECT_NEAR(described.at("canary").at("perplexity_increase").get<double>(), std::expm1(0.5),
              1e-6);
  EXPECT_EQ(described.at("canary").at("divergence"), 0.25);
  EXPECT_EQ(described.at("canary").at("logits_digest"), "0000000000000007");
  EXPECT_EQ(described.at("miss_strategy"), "cached");
  EXPECT_EQ(described.at("cache_slots"), 2);
  EXPECT_EQ(described.at("prefer"), "throughput");
  EXPECT_EQ(described.at("limits"), Json::parse(R"({"max_perplexity_increase": 0.01,
      "min_tokens_per_second": 30.0, "bits_per_weight": 4.5, "device_memory": 25769803776,
      "host_memory": null})"));
  EXPECT_EQ(described.at("prediction"), Json::parse(R"({"perplexity_increase": 0.008,
      "tokens_per_second": 31.5, "prefill_tokens_per_second": 900.0, "device": null,
      "host": {"weights": 1, "kv_cache": 2, "activations": 3, "staging": 4, "context": 5,
               "total": 15},
      "context": 4096, "batch": 1, "profile_digest": "abc"})"));
}

} // namespace
} // namespace moeplan::testing
