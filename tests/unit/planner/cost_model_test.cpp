#include "compiler/planner/cost_model.h"

#include "paper_models.h"

#include <gtest/gtest.h>

#include <cmath>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

const FormatInfo *format(const char *name) { return findFormat(std::string_view(name)); }

Placement uniform(const CostModel &model, const char *name, Residency residency,
                  MissStrategy miss = MissStrategy::None, uint32_t slots = 0) {
  const FormatInfo *f = format(name);
  Placement placement;
  placement.experts.assign(model.numExperts(), {{f, f, f}, residency});
  placement.miss = miss;
  placement.cacheSlots = slots;
  return placement;
}

CostModel mixtral(std::optional<Profile> profile = roundProfile()) {
  return CostModel(mixtral8x7b(), QualityModel::published(mixtral8x7b()), std::move(profile), {});
}

// Bytes of an expert in bf16: 3 * 4096 * 14336 * 2.
constexpr double kExpertBytes16 = 352321536;
// What a bf16 token reads besides experts: attention, router (f32), norms (f32), head.
constexpr double kMatrices = 32 * (2.0 * 4096 * 4096 + 2.0 * 1024 * 4096) * 2 + 32000.0 * 4096 * 2;
constexpr double kVectors = 32 * (8.0 * 4096 + 2 * 4096) * 4 + 4096.0 * 4;

TEST(CostModel, CountsEveryByte) {
  const CostModel model = mixtral();
  const PlacementCosts costs = model.evaluate(uniform(model, "bf16", Residency::Device));
  EXPECT_EQ(double(costs.device.weights),
            256 * kExpertBytes16 + kMatrices + kVectors + 32000.0 * 4096 * 2);
  EXPECT_EQ(costs.device.kvCache, 4096u * 32 * 2 * 8 * 128 * 2);
  EXPECT_EQ(costs.device.context, uint64_t(512) << 20);
  EXPECT_EQ(costs.device.staging, 0u);
  EXPECT_EQ(costs.host.total(), 0u);
  EXPECT_EQ(costs.bitsPerWeight, 16);
  EXPECT_EQ(costs.expertsOnDevice, 256u);
}

TEST(CostModel, PredictsBytesOverBandwidth) {
  const CostModel model = mixtral();
  const PlacementCosts costs = model.evaluate(uniform(model, "bf16", Residency::Device));
  const double cache = 2048.0 * 32 * 2 * 8 * 128 * 2; // half full
  EXPECT_NEAR(costs.decodeSeconds, (64 * kExpertBytes16 + kMatrices + kVectors + cache) / 1e12,
              1e-9);
  EXPECT_NEAR(costs.tokensPerSecond, 1 / costs.decodeSeconds, 1e-9);
}

TEST(CostModel, PricesMissesByStrategy) {
  const CostModel model = mixtral();
  const double fixed = model.fixedSeconds(0);
  auto perUse = [&](MissStrategy miss, uint32_t slots = 0) {
    const Placement placement = uniform(model, "bf16", Residency::Host, miss, slots);
    return (model.evaluate(placement).decodeSeconds - fixed) / 64;
  };
  EXPECT_NEAR(perUse(MissStrategy::Stream), 1e-5 + kExpertBytes16 * (1e-10 + 1e-12), 1e-9);
  EXPECT_NEAR(perUse(MissStrategy::InPlace), kExpertBytes16 * 1e-10, 1e-9);
  EXPECT_NEAR(perUse(MissStrategy::HostCompute), 1e-5 + kExpertBytes16 * 1e-11, 1e-9);
  // Four slots for eight experts that are drawn alike: every second is there.
  EXPECT_NEAR(perUse(MissStrategy::Cached, 4),
              kExpertBytes16 * 1e-12 + 0.5 * (1e-5 + kExpertBytes16 * 1e-10), 1e-7);
}

TEST(CostModel, CountsBuffersForMisses) {
  const CostModel model = mixtral();
  auto staging = [&](MissStrategy miss, uint32_t slots = 0) {
    return double(
        model.evaluate(uniform(model, "bf16", Residency::Host, miss, slots)).device.staging);
  };
  EXPECT_EQ(staging(MissStrategy::Stream), 2 * kExpertBytes16);
  EXPECT_EQ(staging(MissStrategy::Cached, 2), (2 * 32 + 1) * kExpertBytes16);
  EXPECT_EQ(staging(MissStrategy::InPlace), 0);
}

TEST(CostModel, FrequentExpertsAreFoundInSlotsMoreOften) {
  // Routing that is even gives even hits; what is asked for is the number of slots in the mean.
  const CostModel model = mixtral();
  const std::vector<uint32_t> hosts{0, 1, 2, 3, 4, 5};
  for (double hit : model.hitProbabilities(hosts, 3))
    EXPECT_NEAR(hit, 0.5, 1e-6);
  for (double hit : model.hitProbabilities(hosts, 6))
    EXPECT_EQ(hit, 1);
}

TEST(CostModel, QualityOfUniformPlacementsIsTheOnePublished) {
  const CostModel model = mixtral();
  for (const PublishedQuality &quality : publishedQualities()) {
    const std::string name(findFormat(uint32_t(quality.format))->name);
    EXPECT_NEAR(model.evaluate(uniform(model, name.c_str(), Residency::Device)).perplexityIncrease,
                quality.perplexityIncrease, 1e-9)
        << name;
  }
}

TEST(CostModel, WeightsThatTheCacheHoldsAreReadFaster) {
  Profile profile = roundProfile();
  profile.device.reset();
  profile.host.cacheBytes = uint64_t(32) << 20;
  profile.host.kernels["bf16"] = {1e11, 4e11, 1e12};
  EXPECT_DOUBLE_EQ(CostModel::cachedShare(profile.host, uint64_t(16) << 20), 1);
  EXPECT_DOUBLE_EQ(CostModel::cachedShare(profile.host, uint64_t(128) << 20), 0.25);
  MixtralConfig tiny = mixtral8x7b();
  tiny.hiddenSize = 128;
  tiny.intermediateSize = 256;
  tiny.numAttentionHeads = 4;
  tiny.numKeyValueHeads = 2;
  tiny.headDim = 32;
  tiny.numLayers = 4;
  tiny.vocabSize = 2048;
  const CostModel model(tiny, QualityModel::published(tiny), profile, {});
  const double bytes = double(model.bytes(Linear::w1, *format("bf16")));
  EXPECT_DOUBLE_EQ(
      model.linearSeconds(Linear::w1, *format("bf16"), Residency::Host, MissStrategy::None, 0, 1),
      bytes / 4e11);
  EXPECT_DOUBLE_EQ(
      model.linearSeconds(Linear::w1, *format("bf16"), Residency::Host, MissStrategy::None, 0, 0),
      bytes / 1e11);
}

TEST(CostModel, WithoutAProfileThereIsNoTime) {
  const CostModel model = mixtral(std::nullopt);
  const PlacementCosts costs = model.evaluate(uniform(model, "int4g32", Residency::Host));
  EXPECT_EQ(costs.tokensPerSecond, 0);
  EXPECT_EQ(costs.device.total(), 0u);
  EXPECT_NEAR(costs.bitsPerWeight, 4.5, 1e-9);
}

} // namespace
