#include "runtime/control/fit.h"
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

/// Of sessions as Served makes them.
MachineFit fitOn(const Artifact &artifact, std::string_view device) {
  auto backend = Backend::create(artifact, device);
  EXPECT_TRUE(backend.ok());
  SessionOptions options;
  options.contextLength = 256;
  auto fit = fitOf(*backend.value(), options);
  EXPECT_TRUE(fit.ok());
  return fit.value();
}

TEST(FitTest, SaysWhatASessionThenTakes) {
  for (const auto *path : {&Artifacts::device(), &Artifacts::misses()}) {
    const auto artifact = open(*path);
    for (const PlanFit &plan : fitOn(*artifact, "emu").plans) {
      ASSERT_EQ(plan.cannotRun, "");
      Served served(*artifact, plan.plan->name()->c_str(), "emu");
      EXPECT_EQ(served.device().used(), plan.bytes) << plan.plan->name()->str();
    }
  }
}

TEST(FitTest, FollowsTheBudget) {
  const auto artifact = open(Artifacts::device());
  const MachineFit whole = fitOn(*artifact, "emu");
  uint64_t smallest = UINT64_MAX;
  for (const PlanFit &plan : whole.plans) {
    EXPECT_TRUE(plan.fits);
    smallest = std::min(smallest, plan.bytes);
  }
  const MachineFit tight = fitOn(*artifact, "emu:device_memory=" + std::to_string(smallest));
  EXPECT_EQ(tight.budget, smallest);
  for (size_t i = 0; i < tight.plans.size(); ++i)
    EXPECT_EQ(tight.plans[i].fits, whole.plans[i].bytes == smallest);
}

TEST(FitTest, CountsWhatATokenReads) {
  const auto artifact = open(Artifacts::misses());
  const MachineFit fit = fitOn(*artifact, "emu");
  const uint32_t rows = artifact->model().num_layers() * artifact->model().num_experts();
  for (const PlanFit &plan : fit.plans) {
    const bool all = plan.plan->name()->string_view() == "all";
    EXPECT_EQ(plan.expertsOnDevice, all ? rows : artifact->model().num_layers());
    EXPECT_EQ(plan.expertsOnDevice + plan.expertsOnHost, rows);
    EXPECT_EQ(plan.hostBytes > 0, !all);
    // All experts have the same bytes here, so that it is what the plan states.
    EXPECT_NEAR(plan.bytesPerToken + plan.hostBytesPerToken,
                double(plan.plan->programs()->Get(0)->weight_bytes_per_token()), 1);
    // Two of eight experts; seven of a layer's are on the host, of which a cache holds its slots.
    const bool caches = plan.plan->miss_strategy() == fb::MissStrategy::cached;
    const double missShare = caches ? 1 - plan.plan->cache_slots() / 7.0 : 1;
    EXPECT_NEAR(plan.hostBytesPerToken, all ? 0 : missShare * plan.hostBytes / 4.0, 1);
  }
}

TEST(FitTest, RefusesAContextThatTheModelDoesNotHave) {
  const auto artifact = open(Artifacts::host());
  auto backend = Backend::create(*artifact, "cpu");
  SessionOptions options;
  options.contextLength = artifact->model().max_position_embeddings() + 1;
  const Status status = fitOf(*backend.value(), options).status();
  EXPECT_EQ(status.code(), MOEPLAN_INVALID_ARGUMENT);
}

TEST(FitTest, SaysWhyAPlanCannotRun) {
  const auto artifact = open(Artifacts::device());
  for (const PlanFit &plan : fitOn(*artifact, "cpu").plans) {
    EXPECT_FALSE(plan.fits);
    EXPECT_EQ(plan.cannotRun, "keeps experts in device memory, which this device has not");
  }
  const auto host = open(Artifacts::host());
  for (const PlanFit &plan : fitOn(*host, "cpu").plans) {
    EXPECT_TRUE(plan.fits);
    EXPECT_EQ(plan.hostBytes, 0u);
    EXPECT_GT(plan.bytes, plan.bytesPerToken);
  }
}

} // namespace
} // namespace moeplan::testing
