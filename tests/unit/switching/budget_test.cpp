// A budget of device memory that changes while sessions go on.
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

/// Device memory that a session of Served takes under `plan`.
uint64_t bytesUnder(const Artifact &artifact, const char *plan) {
  Served served(artifact, plan, "emu");
  return served.device().used();
}

TEST(BudgetTest, ThePlanFollowsTheBudget) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int8", "emu");
  served.generate(5);
  const uint64_t less = bytesUnder(*artifact, "int4") + 1000;
  ASSERT_TRUE(served.runtime->setDeviceBudget(less).ok());
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_COMPLETED, 1));
  // The better one of those that fit, with half of its experts in 8 bits on the host.
  EXPECT_STREQ(served.session->planName(), "half");
  EXPECT_LE(served.device().used(), less);
  served.generate(5);
  ASSERT_TRUE(served.runtime->setDeviceBudget(bytesUnder(*artifact, "int8") * 2).ok());
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_COMPLETED, 2));
  EXPECT_STREQ(served.session->planName(), "int8");
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_FLIPPED), 2u);
}

TEST(BudgetTest, WhereNothingFitsTheBudgetStays) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int8", "emu");
  const uint64_t before = served.device().budget();
  const Status status = served.runtime->setDeviceBudget(1000);
  EXPECT_EQ(status.code(), MOEPLAN_RESOURCE_EXHAUSTED);
  EXPECT_NE(status.message().find("the smallest, takes"), std::string::npos) << status.message();
  EXPECT_EQ(served.device().budget(), before);
}

TEST(BudgetTest, ASessionWithoutAPlanGetsTheBestThatFits) {
  const auto artifact = open(Artifacts::device());
  const uint64_t enough = bytesUnder(*artifact, "int4");
  Served served(*artifact, nullptr, "emu:device_memory=" + std::to_string(enough));
  EXPECT_STREQ(served.session->planName(), "half");
  EXPECT_STREQ(Served(*artifact, nullptr, "emu").session->planName(), "int8");
}

TEST(BudgetTest, AllSessionsFollow) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int8", "emu");
  auto other = served.runtime->createSession({.plan = "int8", .contextLength = 64, .threads = 1});
  ASSERT_TRUE(other.ok());
  const uint64_t both = served.device().used();
  ASSERT_TRUE(served.runtime->setDeviceBudget(both - 500'000).ok());
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_COMPLETED, 2));
  EXPECT_STRNE(served.session->planName(), "int8");
  EXPECT_STREQ(served.session->planName(), other.value()->planName());
  EXPECT_LE(served.device().used(), both - 500'000);
  served.runtime->closeSession(other.value());
}

TEST(BudgetTest, TheHostHasOneToo) {
  const auto artifact = open(Artifacts::host());
  Served served(*artifact, "full");
  served.generate(5);
  const uint64_t used = served.device().used();
  ASSERT_TRUE(served.runtime->setDeviceBudget(used - 1).ok());
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_COMPLETED));
  EXPECT_STREQ(served.session->planName(), "int8");
  EXPECT_LT(served.device().used(), used);
}

} // namespace
} // namespace moeplan::testing
