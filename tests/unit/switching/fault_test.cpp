// Failures at every place where there may be one, one after the other, in the middle of a switch.
#include "runtime/support/fault.h"
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

#include <set>

namespace moeplan::testing {
namespace {

/// Leaves no failure armed for what comes next.
struct Armed {
  Armed(FaultPoint kind, uint64_t nth) { FaultInjector::instance().arm(kind, nth); }
  ~Armed() { FaultInjector::instance().arm(FaultPoint::allocation, 0); }
  bool fired() const { return FaultInjector::instance().fired(); }
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
  uint64_t failures = 0, points = 0;
  // Makes the nth point of a kind fail in a switch; whether there was one.
  const auto tryOne = [&](FaultPoint kind, uint64_t nth) {
    SCOPED_TRACE("kind " + std::to_string(int(kind)) + ", failure " + std::to_string(nth));
    Served served(*artifact, c.from, c.onDevice ? "emu" : "cpu");
    if (c.tight)
      served.device().setBudget(served.device().used() + 100'000);
    std::vector<int32_t> tokens = served.generate(kBefore);
    Status status;
    bool fired = false;
    {
      const Armed armed(kind, nth);
      EXPECT_TRUE(served.runtime->switchPlan(*served.session, c.to, false).ok());
      // The session goes on when it happens; the switch ends before the plans are compared.
      status = served.runtime->switchPlan(*served.session, c.to, true);
      fired = armed.fired();
    }
    points += fired;
    failures += !status.ok();
    const std::vector<int32_t> rest = served.generate(kAfter);
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    const bool flipped = std::string(served.session->planName()) == c.to;
    EXPECT_EQ(tokens, flipped ? changed : unchanged);
    EXPECT_EQ(status.ok(), status.message().empty());
    EXPECT_LE(served.device().used(), served.device().budget());
    // Nothing is left behind: the switch can be made afterwards.
    EXPECT_TRUE(served.switchTo(c.to).ok());
    EXPECT_TRUE(served.switchTo(c.from).ok());
    return fired;
  };
  for (const FaultPoint kind : kFaultPoints)
    for (uint64_t nth = 1; tryOne(kind, nth); ++nth) {
      ASSERT_LT(nth, 5000u);
      seen.insert(kind);
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
  for (const FaultPoint kind : kFaultPoints) {
    bool fired = true;
    for (uint64_t nth = 1; fired; ++nth) {
      const Armed armed(kind, nth);
      bool made = true;
      try {
        Served served(*artifact, "half", "emu");
      } catch (const std::runtime_error &error) {
        made = false;
        EXPECT_STRNE(error.what(), "");
      }
      fired = armed.fired();
      EXPECT_EQ(made, !fired) << "kind " << int(kind) << ", failure " << nth;
    }
  }
}

TEST(FaultTest, WhatFailsInAMissIsReadInPlace) {
  const auto artifact = open(Artifacts::misses());
  const std::vector<int32_t> expected = tokensOf(*artifact, "all", "emu", 20);
  for (const char *plan : {"stream", "cached"})
    for (const FaultPoint kind : kFaultPoints) {
      bool fired = true;
      for (uint64_t nth = 1; fired; nth = nth * 2 + 1) {
        Served served(*artifact, plan, "emu");
        const Armed armed(kind, nth);
        EXPECT_EQ(served.generate(20), expected) << plan << " " << int(kind) << " " << nth;
        fired = armed.fired();
      }
    }
}

} // namespace
} // namespace moeplan::testing
