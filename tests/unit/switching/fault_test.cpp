// Failures at every place where there may be one, one after the other, in the middle of a switch.
#include "runtime/support/fault.h"
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

#include <set>

namespace moeplan::testing {
namespace {

/// Leaves no failure armed for what comes next.
struct Armed {
  explicit Armed(uint64_t nth) { FaultInjector::instance().arm(nth); }
  ~Armed() { FaultInjector::instance().arm(0); }
  bool fired() const { return FaultInjector::instance().fired(); }
  FaultPoint where() const { return FaultInjector::instance().where(); }
};

struct Case {
  const char *name;
  bool onDevice, tight;
  const char *from, *to;
};

class FaultSweep : public ::testing::TestWithParam<Case> {};

/// Tokens of a switch from `from` to `to`, where the plan in use at each is known afterwards: each
/// must be what its plan gives, whatever failed.
TEST_P(FaultSweep, EveryPlaceMayFailInASwitch) {
  const Case &c = GetParam();
  const auto artifact = open(c.onDevice ? Artifacts::device() : Artifacts::host());
  constexpr size_t kBefore = 6, kAfter = 12;
  const std::vector<int32_t> unchanged =
      tokensOf(*artifact, c.from, c.onDevice ? "emu" : "cpu", kBefore + kAfter);
  std::vector<int32_t> changed;
  {
    Served served(*artifact, c.from, c.onDevice ? "emu" : "cpu");
    changed = served.generate(kBefore);
    ASSERT_TRUE(served.switchTo(c.to).ok());
    const std::vector<int32_t> rest = served.generate(kAfter);
    changed.insert(changed.end(), rest.begin(), rest.end());
  }
  std::set<FaultPoint> seen;
  bool fired = true;
  uint64_t failures = 0, points = 0;
  for (uint64_t nth = 1; fired; ++nth) {
    ASSERT_LT(nth, 5000u);
    Served served(*artifact, c.from, c.onDevice ? "emu" : "cpu");
    if (c.tight)
      served.device().setBudget(served.device().used() + 100'000);
    std::vector<int32_t> tokens = served.generate(kBefore);
    Status status;
    {
      const Armed armed(nth);
      ASSERT_TRUE(served.runtime->switchPlan(*served.session, c.to, false).ok());
      // The session goes on when it happens; the switch ends before the plans are compared.
      status = served.runtime->switchPlan(*served.session, c.to, true);
      fired = armed.fired();
      if (fired)
        seen.insert(armed.where());
    }
    points += fired;
    failures += !status.ok();
    const std::vector<int32_t> rest = served.generate(kAfter);
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    const bool flipped = std::string(served.session->planName()) == c.to;
    EXPECT_EQ(tokens, flipped ? changed : unchanged) << "failure " << nth;
    EXPECT_EQ(status.ok(), status.message().empty());
    EXPECT_LE(served.device().used(), served.device().budget());
    // Nothing is left behind: the switch can be made afterwards.
    ASSERT_TRUE(served.switchTo(c.to).ok()) << "after failure " << nth;
    ASSERT_TRUE(served.switchTo(c.from).ok()) << "after failure " << nth;
  }
  std::set<FaultPoint> expected = {FaultPoint::allocation, FaultPoint::read, FaultPoint::checksum,
                                   FaultPoint::kernelLoad};
  if (c.onDevice)
    expected.insert(FaultPoint::copy);
  EXPECT_EQ(seen, expected);
  EXPECT_GT(points, 100u);
  EXPECT_GT(failures, 0u);
}

INSTANTIATE_TEST_SUITE_P(, FaultSweep,
                         ::testing::Values(Case{"Host", false, false, "int8", "int4"},
                                           Case{"Device", true, false, "int8", "int4"},
                                           Case{"EvictFirst", true, true, "int8", "int4"}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(FaultTest, ASessionThatCannotBeMadeSaysWhy) {
  const auto artifact = open(Artifacts::device());
  bool fired = true;
  for (uint64_t nth = 1; fired; ++nth) {
    const Armed armed(nth);
    bool made = true;
    try {
      Served served(*artifact, "half", "emu");
    } catch (const std::runtime_error &error) {
      made = false;
      EXPECT_STRNE(error.what(), "");
    }
    fired = armed.fired();
    EXPECT_EQ(made, !fired) << nth;
  }
}

TEST(FaultTest, ACopyThatFailsInAMissIsReadInPlace) {
  const auto artifact = open(Artifacts::misses());
  const std::vector<int32_t> expected = tokensOf(*artifact, "all", "emu", 20);
  for (const char *plan : {"stream", "cached"}) {
    bool fired = true;
    for (uint64_t nth = 1; fired; nth = nth * 2 + 1) {
      Served served(*artifact, plan, "emu");
      const Armed armed(nth);
      EXPECT_EQ(served.generate(20), expected) << plan << " " << nth;
      fired = armed.fired();
    }
  }
}

} // namespace
} // namespace moeplan::testing
