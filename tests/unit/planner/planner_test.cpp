#include "compiler/planner/planner.h"

#include "paper_models.h"

#include "llvm/ADT/STLExtras.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdio>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

CostModel costModel(const MixtralConfig &config, std::optional<Profile> profile) {
  WorkloadInfo workload;
  workload.activationBytes = 64 << 20;
  return CostModel(config, QualityModel::published(config), std::move(profile), workload);
}

Tier plannedTier() {
  Tier tier;
  tier.name = "t";
  tier.planned = true;
  return tier;
}

std::string errorOf(llvm::Expected<PlannedTier> plan) {
  return plan ? "" : llvm::toString(plan.takeError());
}

bool everywhere(const Placement &placement, const char *format) {
  return llvm::all_of(placement.experts, [&](const ExpertPlacement &expert) {
    return llvm::all_of(expert.formats, [&](const FormatInfo *f) { return f->name == format; });
  });
}

// The issue of speed is reported, not asserted: machines differ.
TEST(Planner, PlansFullSizeModels) {
  for (const MixtralConfig &config : {mixtral8x7b(), mixtral8x22b()}) {
    const CostModel model = costModel(config, roundProfile());
    Tier tier = plannedTier();
    tier.limits.minTokensPerSecond = 10;
    for (double gib : {24.0, 40.0, 64.0}) {
      tier.limits.deviceMemory = uint64_t(gib * (1 << 30));
      const auto begin = std::chrono::steady_clock::now();
      auto plan = planTier(model, tier);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      ASSERT_TRUE(bool(plan)) << llvm::toString(plan.takeError());
      std::printf("%u layers, %.0f GiB: +%.3f %%, %.1f tokens/s, %.2f bits, %u on the device, %s, "
                  "gap %.2g, %.2f s\n",
                  config.numLayers, gib, 100 * plan->costs.perplexityIncrease,
                  plan->costs.tokensPerSecond, plan->costs.bitsPerWeight,
                  plan->costs.expertsOnDevice,
                  std::string(missStrategyName(plan->placement.miss)).c_str(), plan->gap, seconds);
      EXPECT_LE(plan->costs.device.total(), *tier.limits.deviceMemory);
      EXPECT_GE(plan->costs.tokensPerSecond, 10 * (1 - 1e-9));
      EXPECT_LT(plan->gap, 0.01);
    }
  }
}

TEST(Planner, KeepsWhatIsPinned) {
  const CostModel model = costModel(mixtral8x7b(), roundProfile());
  Tier tier = plannedTier();
  tier.pins = {{"layers.0.*", "int8g64", "device"},
               {"*.experts.3.w2", "int3g32", ""},
               {"layers.31.*", "", "host"}};
  tier.limits.deviceMemory = uint64_t(30) << 30;
  auto plan = planTier(model, tier);
  ASSERT_TRUE(bool(plan)) << llvm::toString(plan.takeError());
  for (uint32_t e = 0; e < 8; ++e) {
    EXPECT_EQ(plan->placement.experts[e].formats[2]->name, "int8g64");
    EXPECT_EQ(plan->placement.experts[e].residency, Residency::Device);
    EXPECT_EQ(plan->placement.experts[31 * 8 + e].residency, Residency::Host);
  }
  EXPECT_EQ(plan->placement.experts[8 + 3].formats[2]->name, "int3g32");
}

TEST(Planner, UsesTheFormatsThatAreAllowed) {
  const CostModel model = costModel(mixtral8x7b(), std::nullopt);
  Tier tier = plannedTier();
  tier.formats = {"int4g64"};
  auto plan = planTier(model, tier);
  ASSERT_TRUE(bool(plan));
  EXPECT_TRUE(everywhere(plan->placement, "int4g64"));
}

TEST(Planner, MeetsBitsPerWeightClosely) {
  const CostModel model = costModel(mixtral8x7b(), std::nullopt);
  Tier tier = plannedTier();
  tier.limits.bitsPerWeight = 4.0;
  auto plan = planTier(model, tier);
  ASSERT_TRUE(bool(plan));
  EXPECT_LE(plan->costs.bitsPerWeight, 4.0 + 1e-9);
  EXPECT_GT(plan->costs.bitsPerWeight, 3.98);
}

TEST(Planner, MoreMemoryNeverMakesItWorse) {
  const CostModel model = costModel(mixtral8x7b(), roundProfile());
  Tier tier = plannedTier();
  tier.limits.minTokensPerSecond = 20;
  double nats = MAXFLOAT;
  for (double gib = 20; gib <= 80; gib += 10) {
    tier.limits.deviceMemory = uint64_t(gib * (1 << 30));
    auto plan = planTier(model, tier);
    if (!plan) {
      llvm::consumeError(plan.takeError());
      continue;
    }
    EXPECT_LE(plan->costs.nats, nats + 1e-4) << gib;
    nats = plan->costs.nats;
  }
  EXPECT_LT(nats, 1);
}

TEST(Planner, ThroughputWithinAQualityLimitIsFasterThanQualityWithout) {
  const CostModel model = costModel(mixtral8x7b(), roundProfile());
  Tier tier = plannedTier();
  tier.limits.maxPerplexityIncrease = 0.02;
  auto quality = planTier(model, tier);
  tier.prefer = Preference::Throughput;
  auto fast = planTier(model, tier);
  ASSERT_TRUE(quality && fast);
  EXPECT_GT(fast->costs.tokensPerSecond, 1.5 * quality->costs.tokensPerSecond);
  EXPECT_LE(fast->costs.perplexityIncrease, 0.02 + 1e-9);
  EXPECT_EQ(quality->costs.nats, 0);
}

TEST(Planner, SaysWhatIsMissing) {
  const CostModel model = costModel(mixtral8x7b(), roundProfile());
  Tier tier = plannedTier();
  tier.name = "quality";
  tier.limits.deviceMemory = uint64_t(24) << 30;
  tier.limits.minTokensPerSecond = 45;
  tier.limits.maxPerplexityIncrease = 0.003;
  const std::string message = errorOf(planTier(model, tier));
  EXPECT_NE(message.find("tier 'quality' cannot be met: with its other limits it needs "),
            std::string::npos)
      << message;
  EXPECT_NE(message.find(" of device memory, 24.0 GiB given; or it decodes "), std::string::npos)
      << message;
  EXPECT_NE(message.find(" tokens/s as predicted, 45.0 asked"), std::string::npos) << message;
}

TEST(Planner, AsksForWhatItNeedsToKnow) {
  const CostModel noProfile = costModel(mixtral8x7b(), std::nullopt);
  Tier tier = plannedTier();
  tier.limits.minTokensPerSecond = 1;
  EXPECT_EQ(errorOf(planTier(noProfile, tier)),
            "tier 't' asks for speed: give the machine's profile (see 'moeplan profile')");
  tier = plannedTier();
  tier.limits.deviceMemory = 1 << 30;
  EXPECT_EQ(errorOf(planTier(noProfile, tier)),
            "tier 't' limits device memory, and there is no profile of a machine with a device");
  tier = plannedTier();
  tier.pins = {{"layers.77.*", "int8g64", ""}};
  EXPECT_EQ(errorOf(planTier(noProfile, tier)),
            "tier 't': pattern 'layers.77.*' matches no expert");
}

TEST(Planner, StreamsOnlyWhereNothingElseIsCheaper) {
  // A CPU that is slower than the bus: reading through it is the cheapest miss.
  Profile profile = roundProfile();
  for (auto &[name, rate] : profile.host.kernels)
    rate.decodeBytesPerSecond = 1e9;
  const CostModel model = costModel(mixtral8x7b(), profile);
  Tier tier = plannedTier();
  tier.prefer = Preference::Throughput;
  tier.limits.maxPerplexityIncrease = 0.0;
  tier.limits.deviceMemory = uint64_t(40) << 30;
  auto plan = planTier(model, tier);
  ASSERT_TRUE(bool(plan)) << llvm::toString(plan.takeError());
  EXPECT_EQ(plan->placement.miss, MissStrategy::InPlace);
  profile.transfer.inPlaceBytesPerSecond = 1e9; // and a bus that kernels cannot read through well
  const CostModel slowBus = costModel(mixtral8x7b(), profile);
  plan = planTier(slowBus, tier);
  ASSERT_TRUE(bool(plan)) << llvm::toString(plan.takeError());
  EXPECT_TRUE(plan->placement.miss == MissStrategy::Stream ||
              plan->placement.miss == MissStrategy::Cached);
}

} // namespace
