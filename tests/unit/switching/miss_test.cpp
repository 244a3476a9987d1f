// What is done about experts that are not on the device.
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

class MissTest : public ::testing::TestWithParam<const char *> {};

TEST_P(MissTest, TheTokensAreThoseOfAPlanThatNeverMisses) {
  const auto artifact = open(Artifacts::misses());
  Served served(*artifact, GetParam(), "emu", 256, 2);
  // A prompt that routes tokens to more experts than there are buffers or slots.
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 100; ++i)
    prompt.push_back(1 + i * 17 % 2000);
  ASSERT_TRUE(served.session->append(prompt, 1).ok());
  const std::vector<int32_t> tokens = served.generate(40);
  Served all(*artifact, "all", "emu", 256, 2);
  ASSERT_TRUE(all.session->append(prompt, 1).ok());
  EXPECT_EQ(tokens, all.generate(40));
  EXPECT_EQ(all.residency().counters().misses, 0u);
  EXPECT_GT(served.residency().counters().misses, 0u);
  EXPECT_EQ(served.residency().counters().hits > 0, std::string(GetParam()) == "cached");
}

TEST_P(MissTest, BytesOverTheLinkAreCounted) {
  const auto artifact = open(Artifacts::misses());
  Served served(*artifact, GetParam(), "emu");
  served.generate(20);
  const ResidencyCounters &counters = served.residency().counters();
  const fb::Expert &expert = *artifact->plan("all").value()->experts()->Get(1);
  uint64_t bytes = 0; // of an expert: all are equal
  for (uint32_t segment : {expert.w1(), expert.w3(), expert.w2()})
    bytes += served.residency().bytesOf(segment);
  if (std::string(GetParam()) == "host_compute")
    EXPECT_LT(counters.missBytes, counters.misses * bytes / 10); // activations only
  else
    EXPECT_EQ(counters.missBytes, counters.misses * bytes);
}

TEST_P(MissTest, BuffersCountAgainstTheBudget) {
  const auto artifact = open(Artifacts::misses());
  const Served served(*artifact, GetParam(), "emu");
  const uint64_t used = served.runtime->backend().device().used();
  const std::string tight = "emu:device_memory=" + std::to_string(used);
  EXPECT_NO_THROW(Served(*artifact, GetParam(), tight));
  EXPECT_THROW(Served(*artifact, GetParam(), "emu:device_memory=" + std::to_string(used - 1)),
               std::runtime_error);
}

INSTANTIATE_TEST_SUITE_P(, MissTest,
                         ::testing::Values("stream", "in_place", "host_compute", "cached"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace moeplan::testing
