// Which plan a budget allows, and when.
#include "runtime/control/budget_policy.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

using Clock = BudgetPolicy::Clock;
using std::chrono::seconds;

/// Plans are told apart by their address alone.
const fb::Plan *plan(uintptr_t number) {
  return reinterpret_cast<const fb::Plan *>(number * 64); // NOLINT(performance-no-int-to-ptr)
}

const std::vector<Candidate> kCandidates = {{plan(1), 100}, {plan(2), 60}, {plan(3), 30}};
const Clock::time_point kStart = Clock::time_point() + seconds(1000);

TEST(BudgetPolicyTest, TheBestThatFits) {
  const BudgetPolicy policy({0.1, 10});
  EXPECT_EQ(policy.choose(kCandidates, nullptr, 100, kStart).plan, plan(1));
  EXPECT_EQ(policy.choose(kCandidates, nullptr, 99, kStart).plan, plan(2));
  EXPECT_EQ(policy.choose(kCandidates, nullptr, 30, kStart).plan, plan(3));
  EXPECT_EQ(policy.choose(kCandidates, nullptr, 29, kStart).plan, nullptr);
}

TEST(BudgetPolicyTest, DownAtOnce) {
  BudgetPolicy policy({0.1, 10});
  policy.switched(kStart);
  const BudgetChoice choice = policy.choose(kCandidates, plan(1), 99, kStart);
  EXPECT_EQ(choice.plan, plan(2));
  EXPECT_FALSE(choice.askAgain);
}

TEST(BudgetPolicyTest, UpWithRoomToSpareOnly) {
  const BudgetPolicy policy({0.1, 10});
  EXPECT_EQ(policy.choose(kCandidates, plan(2), 110, kStart).plan, plan(2));
  EXPECT_EQ(policy.choose(kCandidates, plan(2), 112, kStart).plan, plan(1));
  // The best that leaves enough, not the best of all.
  EXPECT_EQ(policy.choose(kCandidates, plan(3), 105, kStart).plan, plan(2));
}

TEST(BudgetPolicyTest, UpNotSooner) {
  BudgetPolicy policy({0.1, 10});
  policy.switched(kStart);
  const BudgetChoice early = policy.choose(kCandidates, plan(2), 200, kStart + seconds(9));
  EXPECT_EQ(early.plan, plan(2));
  EXPECT_EQ(early.askAgain, kStart + seconds(10));
  const BudgetChoice due = policy.choose(kCandidates, plan(2), 200, kStart + seconds(10));
  EXPECT_EQ(due.plan, plan(1));
  EXPECT_FALSE(due.askAgain);
}

TEST(BudgetPolicyTest, ATremblingBudgetCausesNoSwitches) {
  const BudgetPolicy policy({0.1, 0});
  const fb::Plan *current = plan(2);
  for (uint64_t budget : {100, 103, 99, 108, 101})
    current = policy.choose(kCandidates, current, budget, kStart).plan;
  EXPECT_EQ(current, plan(2));
}

TEST(BudgetPolicyTest, APlanThatMayNotBeChosenIsLeft) {
  const BudgetPolicy policy({0.1, 10});
  EXPECT_EQ(policy.choose({{plan(2), 60}, {plan(3), 30}}, plan(1), 200, kStart).plan, plan(2));
}

} // namespace
} // namespace moeplan::testing
