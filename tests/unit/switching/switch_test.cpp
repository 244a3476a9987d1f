// Changes of the plan of a session that goes on.
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

#include <thread>

namespace moeplan::testing {
namespace {

constexpr const char *kDevice = "emu:copy=2GB/s,latency=10us";

/// What comes out when the plans are exchanged by hand, without staging and without a thread.
std::vector<int32_t> exchangedByHand(const Artifact &artifact, const char *from, const char *to,
                                     std::string_view device, size_t before, size_t after) {
  Served served(artifact, from, device);
  std::vector<int32_t> tokens = served.generate(before);
  auto next = served.session->load(*artifact.plan(to).value(), {});
  EXPECT_TRUE(next.ok());
  std::unique_ptr<LoadedPlan> previous;
  served.session->atBoundary([&] { previous = served.session->flip(std::move(next).value()); });
  const std::vector<int32_t> rest = served.generate(after);
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  return tokens;
}

struct Case {
  bool onDevice;
  const char *from, *to;
};

class SwitchSweep : public ::testing::TestWithParam<Case> {
protected:
  const std::unique_ptr<Artifact> artifact =
      open(GetParam().onDevice ? Artifacts::device() : Artifacts::host());
  const char *device = GetParam().onDevice ? kDevice : "cpu";
};

TEST_P(SwitchSweep, EachTokenIsThatOfItsPlan) {
  const auto [onDevice, from, to] = GetParam();
  Served served(*artifact, from, device);
  std::vector<int32_t> tokens = served.generate(24);
  EXPECT_EQ(tokens, tokensOf(*artifact, from, device, 24));
  ASSERT_TRUE(served.switchTo(to).ok());
  EXPECT_STREQ(served.session->planName(), to);
  const std::vector<int32_t> rest = served.generate(24);
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  EXPECT_EQ(tokens, exchangedByHand(*artifact, from, to, device, 24, 24));
  EXPECT_EQ(served.session->position(), promptTokens().size() + 48);
}

TEST_P(SwitchSweep, OnlyTheDifferenceMoves) {
  const auto [onDevice, from, to] = GetParam();
  Served served(*artifact, from, device);
  served.prompt();
  for (const auto &[source, target] : {std::pair(from, to), std::pair(to, from)}) {
    ASSERT_TRUE(served.switchTo(target).ok());
    EXPECT_EQ(served.log.last(MOEPLAN_EVENT_STAGING).bytes, difference(*artifact, source, target));
    EXPECT_EQ(served.log.last(MOEPLAN_EVENT_COMPLETED).bytes,
              difference(*artifact, source, target));
    EXPECT_EQ(served.log.last(MOEPLAN_EVENT_RELEASED).bytes, difference(*artifact, target, source));
  }
}

INSTANTIATE_TEST_SUITE_P(, SwitchSweep,
                         ::testing::Values(Case{false, "full", "int4"}, Case{false, "int4", "int8"},
                                           Case{true, "int8", "int4"}, Case{true, "int4", "half"},
                                           Case{true, "half", "int8"}),
                         [](const auto &info) {
                           return std::string(info.param.from) + "To" + info.param.to +
                                  (info.param.onDevice ? "OnDevice" : "OnHost");
                         });

TEST(SwitchTest, BetweenTwinsNothingMovesAndNothingChanges) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int4", kDevice);
  std::vector<int32_t> tokens = served.generate(10);
  for (const char *plan : {"twin", "int4", "twin"}) {
    ASSERT_TRUE(served.switchTo(plan).ok());
    EXPECT_EQ(served.log.last(MOEPLAN_EVENT_STAGING).bytes, 0u);
    const std::vector<int32_t> more = served.generate(10);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  EXPECT_EQ(tokens, tokensOf(*artifact, "int4", kDevice, 40));
}

TEST(SwitchTest, GoesOnWhileItIsStaged) {
  const auto artifact = open(Artifacts::device());
  // A link so slow that tokens are generated meanwhile, however slow the machine.
  Served served(*artifact, "int8", "emu:copy=20MB/s");
  std::vector<int32_t> tokens = served.generate(1);
  ASSERT_TRUE(served.runtime->switchPlan(*served.session, "int4", false).ok());
  while (served.log.count(MOEPLAN_EVENT_FLIPPED) == 0 && tokens.size() < 200) {
    const std::vector<int32_t> more = served.generate(1);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_COMPLETED));
  const size_t before = served.log.last(MOEPLAN_EVENT_FLIPPED).position - promptTokens().size();
  EXPECT_GT(before, 1u);
  const std::vector<int32_t> more = served.generate(10);
  tokens.insert(tokens.end(), more.begin(), more.end());
  EXPECT_EQ(tokens,
            exchangedByHand(*artifact, "int8", "int4", kDevice, before, tokens.size() - before));
}

TEST(SwitchTest, TheLastRequestWins) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int8", "emu:copy=20MB/s");
  served.prompt();
  Status first;
  std::thread waiting([&] { first = served.switchTo("int4"); });
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_STAGING));
  EXPECT_TRUE(served.switchTo("half").ok());
  waiting.join();
  EXPECT_EQ(first.code(), MOEPLAN_CANCELLED);
  EXPECT_STREQ(served.session->planName(), "half");
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_SUPERSEDED), 1u);
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_FLIPPED), 1u);
}

TEST(SwitchTest, WhereBothDoNotFitExpertsLeaveFirst) {
  const auto artifact = open(Artifacts::device());
  const std::vector<int32_t> expected = exchangedByHand(*artifact, "int8", "int4", kDevice, 20, 20);
  Served served(*artifact, "int8", kDevice);
  std::vector<int32_t> tokens = served.generate(20);
  // Not even the dense weights of both fit besides the experts of one.
  const uint64_t budget = served.device().used() + 100'000;
  served.device().setBudget(budget);
  ASSERT_TRUE(served.runtime->switchPlan(*served.session, "int4", false).ok());
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_COMPLETED));
  EXPECT_LE(served.device().used(), budget);
  EXPECT_GT(served.log.last(MOEPLAN_EVENT_EVICTED).bytes, 0u);
  EXPECT_EQ(served.log.last(MOEPLAN_EVENT_COMPLETED).bytes, difference(*artifact, "int8", "int4"));
  const std::vector<int32_t> rest = served.generate(20);
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  EXPECT_EQ(tokens, expected);
}

TEST(SwitchTest, TheBudgetHoldsInEveryMoment) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int8", kDevice);
  served.prompt();
  const uint64_t budget = served.device().used() + 50'000;
  served.device().setBudget(budget);
  std::atomic<bool> stop = false;
  uint64_t most = 0;
  std::thread watcher([&] {
    while (!stop)
      most = std::max(most, served.device().used());
  });
  for (const char *plan : {"int4", "int8", "half", "int8"}) {
    EXPECT_TRUE(served.switchTo(plan).ok()) << plan;
    served.generate(5);
  }
  stop = true;
  watcher.join();
  EXPECT_LE(most, budget);
}

TEST(SwitchTest, WhatIsRefusedSaysWhy) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int4", kDevice);
  EXPECT_EQ(served.switchTo("none").message(),
            "no plan 'none'; the artifact has 'int8', 'int4', 'twin', 'half'");
  served.device().setBudget(served.device().used());
  const Status status = served.switchTo("int8");
  EXPECT_EQ(status.code(), MOEPLAN_RESOURCE_EXHAUSTED);
  EXPECT_NE(status.message().find("plan 'int8' takes "), std::string::npos) << status.message();
  EXPECT_EQ(served.log.events().size(), 0u);
}

TEST(SwitchTest, ADamagedWeightIsNotSwitchedTo) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "a.moeplan";
  std::filesystem::copy_file(Artifacts::device(), path);
  const auto artifact = open(path);
  Served served(*artifact, "int8", kDevice);
  std::vector<int32_t> tokens = served.generate(10);
  // An expert that only int4 has.
  const uint32_t segment = artifact->plan("int4").value()->experts()->Get(5)->w2();
  std::string bytes = readFile(path);
  bytes[artifact->header().segment_base +
        artifact->metadata().segments()->Get(segment)->extent()->offset() + 77] ^= 1;
  writeFile(path, bytes);
  const Status status = served.switchTo("int4");
  EXPECT_EQ(status.code(), MOEPLAN_CORRUPT);
  EXPECT_EQ(status.message(), "segment 'layers.0.experts.5.w2@int4g32': checksum does not match");
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_FAILED), 1u);
  const std::vector<int32_t> rest = served.generate(10);
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  EXPECT_EQ(tokens, tokensOf(*artifact, "int8", kDevice, 20));
  EXPECT_STREQ(served.session->planName(), "int8");
}

TEST(SwitchTest, ADamagedWeightIsNotRunFromTheHostEither) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "a.moeplan";
  std::filesystem::copy_file(Artifacts::device(), path);
  const auto artifact = open(path);
  Served served(*artifact, "int8", kDevice);
  served.prompt();
  // So little room that experts come behind the exchange, the damaged one among them.
  served.device().setBudget(served.device().used() + 100'000);
  std::string bytes = readFile(path);
  for (uint32_t expert = 0; expert < 32; ++expert)
    bytes[artifact->header().segment_base +
          artifact->metadata()
              .segments()
              ->Get(artifact->plan("int4").value()->experts()->Get(expert)->w2())
              ->extent()
              ->offset()] ^= 1;
  writeFile(path, bytes);
  EXPECT_EQ(served.switchTo("int4").code(), MOEPLAN_CORRUPT);
  EXPECT_STREQ(served.session->planName(), "int8");
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_FLIPPED), 0u);
}

TEST(SwitchTest, SessionsShareWeights) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int8", kDevice);
  const uint64_t staged = served.residency().counters().stagedBytes;
  auto other = served.runtime->createSession({.plan = "int8", .contextLength = 64, .threads = 1});
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(served.residency().counters().stagedBytes, staged);
  ASSERT_TRUE(served.switchTo("int4").ok());
  EXPECT_EQ(served.log.last(MOEPLAN_EVENT_RELEASED).bytes, 0u); // the other one needs them
  served.runtime->closeSession(other.value());
  EXPECT_EQ(served.residency().counters().releasedBytes, difference(*artifact, "int4", "int8"));
}

} // namespace
} // namespace moeplan::testing
