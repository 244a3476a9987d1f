// Weights that an artifact generates when the first session asks for them.
#include "formats.h"
#include "runtime/artifact/artifact.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <thread>

namespace moeplan::testing {
namespace {

class SyntheticWeightsTest : public ::testing::Test {
protected:
  SyntheticWeightsTest() {
    draft.makeSynthetic(ArtifactDraft::kUp);
    draft.makeSynthetic(ArtifactDraft::kNorm);
    // Larger than what one thread generates at a time.
    draft.segments.push_back({.name = "large",
                              .stored = {},
                              .bytes = *formatBytes(*findFormat("int4g64"), 9000, 9000),
                              .format = fb::Format::int4g64,
                              .shape = {{9000, 9000}},
                              .synthetic = true});
  }

  std::unique_ptr<Artifact> open() const {
    const std::filesystem::path path = directory.path() / "a.moeplan";
    draft.write(path);
    auto artifact = Artifact::open(path);
    EXPECT_TRUE(artifact.ok()) << artifact.failure().message();
    return std::move(artifact).value();
  }

  static constexpr uint32_t kLarge = ArtifactDraft::kNorm + 1;
  TemporaryDirectory directory;
  ArtifactDraft draft;
};

std::vector<std::byte> copyOf(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

TEST_F(SyntheticWeightsTest, TheFileHoldsNoneOfTheirBytes) {
  EXPECT_LT(open()->fileBytes(), 16384u);
  EXPECT_EQ(open()->verify({}).message(), "");
  EXPECT_EQ(open()->syntheticSeed(), 7u);
}

TEST_F(SyntheticWeightsTest, EachWeightHasItsSizeAndStoredOnesStayAsTheyAre) {
  const auto artifact = open();
  ASSERT_TRUE(artifact->prepareWeights(2).ok());
  for (uint32_t index : {uint32_t(ArtifactDraft::kUp), uint32_t(ArtifactDraft::kDown),
                         uint32_t(ArtifactDraft::kNorm), kLarge}) {
    const auto bytes = artifact->weight(index);
    EXPECT_EQ(bytes.size(), artifact->metadata().segments()->Get(index)->extent()->bytes());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % kMappedAlignment, 0u);
  }
  EXPECT_EQ(copyOf(artifact->weight(ArtifactDraft::kDown)),
            std::vector<std::byte>(*formatBytes(*findFormat("bf16"), 4, 6), std::byte('d')));
}

TEST_F(SyntheticWeightsTest, BytesDoNotDependOnTheNumberOfThreads) {
  const auto one = open(), many = open();
  ASSERT_TRUE(one->prepareWeights(1).ok());
  ASSERT_TRUE(many->prepareWeights(3).ok());
  for (uint32_t index : {uint32_t(ArtifactDraft::kUp), kLarge})
    EXPECT_EQ(copyOf(one->weight(index)), copyOf(many->weight(index)));
}

TEST_F(SyntheticWeightsTest, TheyAreGeneratedOnceHoweverManyAskAtTheSameTime) {
  const auto artifact = open();
  const std::byte *seen[4] = {};
  {
    std::vector<std::jthread> threads;
    for (const std::byte *&data : seen)
      threads.emplace_back([&artifact, &data] {
        EXPECT_TRUE(artifact->prepareWeights(2).ok());
        data = artifact->weight(kLarge).data();
      });
  }
  for (const std::byte *data : seen)
    EXPECT_EQ(data, seen[0]);
}

TEST_F(SyntheticWeightsTest, APlanWantsItsOwnAlone) {
  // A second plan, of the large weight besides.
  draft.plans.push_back(draft.plans[0]);
  draft.plans[1].name = "larger";
  draft.plans[1].programs[0].arenaBytes = 64;
  draft.plans[1].programs[0].commands = {
      copy(operand(fb::BindingKind::segment, kLarge, 0, 64), arena(0, 64, fb::Access::write))};
  const auto artifact = open();
  const fb::Plan *plan = artifact->plan(nullptr).value(),
                 *larger = artifact->plan("larger").value();
  ASSERT_TRUE(artifact->prepareWeights(2, plan).ok());
  EXPECT_TRUE(artifact->hasBytes(ArtifactDraft::kUp));
  EXPECT_FALSE(artifact->hasBytes(kLarge));
  const std::byte *up = artifact->weight(ArtifactDraft::kUp).data();
  ASSERT_TRUE(artifact->prepareWeights(1, larger).ok());
  EXPECT_TRUE(artifact->hasBytes(kLarge));
  EXPECT_EQ(artifact->weight(ArtifactDraft::kUp).data(), up) << "what is there stays";
  const auto whole = open();
  ASSERT_TRUE(whole->prepareWeights(1).ok());
  EXPECT_EQ(copyOf(artifact->weight(kLarge)), copyOf(whole->weight(kLarge)));
}

TEST_F(SyntheticWeightsTest, MoreThanTheMachineHasIsAStatus) {
  draft.segments[kLarge].format = fb::Format::f32;
  draft.segments[kLarge].shape = {{uint64_t(1) << 20, (uint64_t(1) << 20) - 1}};
  draft.segments[kLarge].bytes = (uint64_t(1) << 42) - (uint64_t(1) << 22);
  const auto artifact = open();
  const Status status = artifact->prepareWeights(1);
  EXPECT_EQ(status.code(), MOEPLAN_RESOURCE_EXHAUSTED);
  EXPECT_NE(status.message().find("a.moeplan: "), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("synthetic weights"), std::string::npos) << status.message();
}

TEST_F(SyntheticWeightsTest, AnArtifactWithAllItsWeightsHasNothingToGenerate) {
  draft = ArtifactDraft();
  const auto artifact = open();
  EXPECT_TRUE(artifact->prepareWeights(1).ok());
  EXPECT_EQ(artifact->syntheticSeed(), std::nullopt);
}

} // namespace
} // namespace moeplan::testing
