// Plans that are checked while they run.
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

#include <fstream>

namespace moeplan::testing {
namespace {

/// A copy of an artifact, in which bits can be flipped under a runtime that has it mapped.
class Damageable {
public:
  explicit Damageable(const std::filesystem::path &original)
      : path_(directory_.path() / "a.moeplan") {
    std::filesystem::copy_file(original, path_);
    artifact_ = open(path_);
  }
  const Artifact &artifact() const { return *artifact_; }

  /// Flips a bit of a weight of an expert of `plan` in the file. Again: back.
  void flip(const char *plan, uint32_t expert) {
    const uint32_t segment = artifact_->plan(plan).value()->experts()->Get(expert)->w1();
    const uint64_t at = artifact_->header().segment_base +
                        artifact_->metadata().segments()->Get(segment)->extent()->offset() + 200;
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(std::streamoff(at));
    const char byte = char(file.get() ^ 16);
    file.seekp(std::streamoff(at));
    file.put(byte);
  }

private:
  TemporaryDirectory directory_;
  std::filesystem::path path_;
  std::unique_ptr<Artifact> artifact_;
};

/// A bit more than the artifacts' policies say.
constexpr size_t kEvery = 20;

TEST(CanaryTest, IsCheckedAfterASwitch) {
  const auto artifact = open(Artifacts::host());
  Served served(*artifact, "full");
  served.generate(5);
  ASSERT_TRUE(served.switchTo("int8").ok());
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_CANARY));
  const Event event = served.log.last(MOEPLAN_EVENT_CANARY);
  EXPECT_STREQ(event.plan->name()->c_str(), "int8");
  // What was compiled, from the same kernels.
  EXPECT_EQ(event.divergence, artifact->plan("int8").value()->canary()->divergence());
  EXPECT_GT(event.divergence, 0);
}

TEST(CanaryTest, IsCheckedWhenTheSessionIsIdle) {
  const auto artifact = open(Artifacts::host());
  Served served(*artifact, "int8");
  served.generate(3); // fewer than between two checks
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_CANARY));
}

TEST(CanaryTest, TheSixteenBitPlanIsItsOwnReference) {
  const auto artifact = open(Artifacts::host());
  EXPECT_NEAR(artifact->plan("full").value()->canary()->divergence(), 0, 1e-9);
}

TEST(CanaryTest, AFlippedBitIsNoticedAndThePlanLeftUntilItIsVerified) {
  Damageable file(Artifacts::host());
  Served served(file.artifact(), "int4");
  served.generate(kEvery);
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_CANARY));
  file.flip("int4", 9);
  served.generate(kEvery);
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_ROLLED_BACK));
  EXPECT_STREQ(served.session->planName(), "int8");
  const Event quarantined = served.log.last(MOEPLAN_EVENT_QUARANTINED);
  EXPECT_STREQ(quarantined.plan->name()->c_str(), "int4");
  EXPECT_EQ(quarantined.reason,
            "its logits on the canary are not those it was compiled with; segment "
            "'layers.1.experts.1.w1@int4g32': checksum does not match");
  const Event back = served.log.last(MOEPLAN_EVENT_ROLLED_BACK);
  EXPECT_STREQ(back.from->name()->c_str(), "int4");
  EXPECT_STREQ(back.plan->name()->c_str(), "int8");
  EXPECT_EQ(back.reason, quarantined.reason);

  EXPECT_EQ(served.switchTo("int4").code(), MOEPLAN_QUARANTINED);
  EXPECT_EQ(served.runtime->verifyPlan("int4").code(), MOEPLAN_CORRUPT);
  EXPECT_EQ(served.switchTo("int4").code(), MOEPLAN_QUARANTINED);
  file.flip("int4", 9);
  EXPECT_TRUE(served.runtime->verifyPlan("int4").ok());
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_VERIFIED), 1u);
  EXPECT_TRUE(served.switchTo("int4").ok());
}

TEST(CanaryTest, ADamagedCopyOnTheDeviceIsMadeGood) {
  const auto artifact = open(Artifacts::device());
  Served served(*artifact, "int4", "emu");
  const std::vector<int32_t> first = served.generate(kEvery);
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_CANARY));
  const Held held{artifact->plan("int4").value()->experts()->Get(9)->w1(), fb::Residency::device};
  auto *copy = const_cast<std::byte *>(served.residency().address(held));
  served.session->atBoundary([&] { copy[200] ^= std::byte(16); });
  served.generate(kEvery);
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_VERIFIED));
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_QUARANTINED), 1u);
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_FLIPPED), 0u);
  served.session->reset();
  EXPECT_EQ(served.generate(kEvery), first);
}

TEST(CanaryTest, APlanTooFarFromTheReferenceIsLeftForABetterOne) {
  const auto artifact = open(Artifacts::host());
  Served served(*artifact, "full");
  CanaryLimits limits;
  limits.maxDivergence = (artifact->plan("int8").value()->canary()->divergence() +
                          artifact->plan("int4").value()->canary()->divergence()) /
                         2;
  std::vector<int32_t> tokens;
  for (int32_t id : *artifact->metadata().canary()->token_ids())
    tokens.push_back(id);
  ASSERT_TRUE(served.runtime->setCanary(tokens, limits).ok());
  served.generate(5);
  ASSERT_TRUE(served.switchTo("int4").ok());
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_ROLLED_BACK));
  EXPECT_STREQ(served.session->planName(), "int8");
  EXPECT_NE(served.log.last(MOEPLAN_EVENT_ROLLED_BACK).reason.find("nats per token, the limit is"),
            std::string::npos);
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_CANARY)); // and int8 is within them
}

TEST(CanaryTest, AnotherTextSaysItselfWhatIsRight) {
  Damageable file(Artifacts::host());
  Served served(file.artifact(), "int4");
  CanaryLimits limits;
  limits.everyTokens = 4;
  ASSERT_TRUE(served.runtime->setCanary(promptTokens(), limits).ok());
  served.generate(5);
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_CANARY));
  // An expert that the text is routed to: all of a layer are damaged.
  for (uint32_t expert = 8; expert < 16; ++expert)
    file.flip("int4", expert);
  served.generate(5);
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_QUARANTINED));
  EXPECT_EQ(served.log.last(MOEPLAN_EVENT_QUARANTINED)
                .reason.find("its logits on the canary are not those of its first check; segment"),
            0u);
}

TEST(CanaryTest, TokensAreChecked) {
  const auto artifact = open(Artifacts::host());
  Served served(*artifact, "full");
  const std::vector<int32_t> one = {1}, wrong = {1, 1 << 20};
  EXPECT_EQ(served.runtime->setCanary(one, {}).code(), MOEPLAN_INVALID_ARGUMENT);
  EXPECT_EQ(served.runtime->setCanary(wrong, {}).code(), MOEPLAN_INVALID_ARGUMENT);
}

} // namespace
} // namespace moeplan::testing
