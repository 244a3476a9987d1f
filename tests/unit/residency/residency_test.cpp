// Which weights are where.
#include "runtime/residency/residency.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>

namespace moeplan::testing {
namespace {

using D = ArtifactDraft;
constexpr Held kOnDevice{D::kUp, fb::Residency::device}, kOnHost{D::kUp, fb::Residency::host};

class ResidencyTest : public ::testing::Test {
protected:
  ResidencyTest() : path(directory.path() / "a.moeplan") {}

  void start(std::string_view spec) {
    draft.write(path);
    artifact = std::move(Artifact::open(path)).value();
    device = std::move(Device::create(spec)).value();
    residency.emplace(*artifact, *device);
  }
  /// Changes a byte of segment `index` in the file, which is mapped.
  void damage(uint32_t index) {
    std::string bytes = readFile(path);
    bytes[artifact->header().segment_base +
          artifact->metadata().segments()->Get(index)->extent()->offset()] ^= 1;
    writeFile(path, bytes);
  }

  TemporaryDirectory directory;
  std::filesystem::path path;
  ArtifactDraft draft;
  std::unique_ptr<Artifact> artifact;
  std::unique_ptr<Device> device;
  std::optional<Residency> residency;
};

TEST_F(ResidencyTest, TheFirstReferenceBringsInAndTheLastGivesUp) {
  start("emu");
  const uint64_t bytes = residency->bytesOf(D::kUp);
  ASSERT_TRUE(residency->acquire(kOnDevice, {}).ok());
  EXPECT_EQ(device->used(), bytes);
  ASSERT_TRUE(residency->acquire(kOnDevice, {}).ok());
  EXPECT_EQ(residency->counters().stagedBytes, bytes);
  EXPECT_EQ(residency->counters().copiedBytes, bytes);
  const std::byte *copy = residency->address(kOnDevice);
  EXPECT_NE(copy, artifact->weight(D::kUp).data());
  EXPECT_EQ(std::memcmp(copy, artifact->weight(D::kUp).data(), bytes), 0);
  residency->release(kOnDevice);
  EXPECT_TRUE(residency->isHeld(kOnDevice));
  residency->release(kOnDevice);
  EXPECT_FALSE(residency->isHeld(kOnDevice));
  EXPECT_EQ(device->used(), 0u);
  EXPECT_EQ(residency->counters().releasedBytes, bytes);
}

TEST_F(ResidencyTest, ADeviceCountsItsOwnMemoryAlone) {
  start("emu");
  ASSERT_TRUE(residency->acquire(kOnHost, {}).ok());
  EXPECT_EQ(device->used(), 0u);
  EXPECT_EQ(residency->counters().copiedBytes, 0u);
  EXPECT_EQ(residency->address(kOnHost), artifact->weight(D::kUp).data());
  residency->release(kOnHost);
}

TEST_F(ResidencyTest, TheCpuCountsWhatIsMapped) {
  start("cpu");
  ASSERT_TRUE(residency->acquire(kOnHost, {}).ok());
  EXPECT_EQ(device->used(), residency->bytesOf(D::kUp));
  EXPECT_EQ(residency->acquire(kOnDevice, {}).code(), MOEPLAN_UNSUPPORTED);
  residency->release(kOnHost);
  EXPECT_EQ(device->used(), 0u);
}

TEST_F(ResidencyTest, WhatIsDamagedIsNotBroughtIn) {
  start("cpu");
  damage(D::kUp);
  const Status status = residency->acquire(kOnHost, {});
  EXPECT_EQ(status.code(), MOEPLAN_CORRUPT);
  EXPECT_EQ(status.message(), "segment 'up': checksum does not match");
  EXPECT_FALSE(residency->isHeld(kOnHost));
  EXPECT_EQ(device->used(), 0u);
  // Left to be read on demand it is not looked at.
  EXPECT_TRUE(residency->acquire(kOnHost, {.onDemand = true}).ok());
  EXPECT_FALSE(residency->isIntact(kOnHost));
  residency->release(kOnHost);
}

TEST_F(ResidencyTest, CopiesAreRepaired) {
  start("emu");
  ASSERT_TRUE(residency->acquire(kOnDevice, {}).ok());
  EXPECT_TRUE(residency->isIntact(kOnDevice));
  const_cast<std::byte *>(residency->address(kOnDevice))[3] ^= std::byte(1);
  EXPECT_FALSE(residency->isIntact(kOnDevice));
  ASSERT_TRUE(residency->repair(kOnDevice).ok());
  EXPECT_TRUE(residency->isIntact(kOnDevice));
  residency->release(kOnDevice);
}

TEST_F(ResidencyTest, BeyondTheBudgetNothingIsHeld) {
  start("emu:device_memory=10");
  const Status status = residency->acquire(kOnDevice, {});
  EXPECT_EQ(status.code(), MOEPLAN_RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.message().find("segment 'up': no device memory for the weights"), 0u)
      << status.message();
  EXPECT_FALSE(residency->isHeld(kOnDevice));
}

TEST_F(ResidencyTest, StagingCanBeStopped) {
  start("emu");
  EXPECT_EQ(residency->acquire(kOnDevice, {.keepGoing = [] { return false; }}).code(),
            MOEPLAN_CANCELLED);
  EXPECT_EQ(device->used(), 0u);
}

TEST_F(ResidencyTest, ALeaseGivesItsReferencesBack) {
  start("emu");
  {
    Lease lease(*residency);
    EXPECT_FALSE(lease.adopt(kOnDevice));
    ASSERT_TRUE(lease.acquire(kOnDevice, {}).ok());
    Lease other(*residency);
    EXPECT_TRUE(other.adopt(kOnDevice));
    lease.release(kOnDevice);
    lease.release(kOnDevice); // has none any more
    EXPECT_TRUE(residency->isHeld(kOnDevice));
    EXPECT_FALSE(lease.has(kOnDevice));
  }
  EXPECT_FALSE(residency->isHeld(kOnDevice));
}

TEST(PlanWeightsTest, DenseWeightsFollowTheExperts) {
  TemporaryDirectory directory;
  const std::string path = directory.path() / "a.moeplan";
  ArtifactDraft draft;
  draft.kernels = {{"k", 1, "test", {}}};
  draft.program().commands = {dispatch(0, 1, {operand(fb::BindingKind::segment, D::kNorm, 0, 16)})};
  draft.write(path);
  auto host = std::move(Artifact::open(path)).value();
  const PlanWeights onHost = weightsOf(*host->plan(nullptr).value());
  EXPECT_EQ(onHost.dense, (std::vector<Held>{{D::kNorm, fb::Residency::host}}));
  EXPECT_EQ(onHost.experts.size(), 4u);
  EXPECT_EQ(onHost.all().size(), 3u); // experts share their weights here

  draft.plans[0].experts[1] = fb::Expert(D::kUp, D::kUp, D::kDown, fb::Residency::device);
  draft.write(path);
  auto device = std::move(Artifact::open(path)).value();
  EXPECT_TRUE(usesDevice(*device->plan(nullptr).value()));
  const PlanWeights mixed = weightsOf(*device->plan(nullptr).value());
  EXPECT_EQ(mixed.dense, (std::vector<Held>{{D::kNorm, fb::Residency::device}}));
  EXPECT_EQ(mixed.all().size(), 5u); // up and down in both memories
}

TEST_F(ResidencyTest, TheHostNeedNotKeepSyntheticWeights) {
  draft.makeSynthetic(D::kUp);
  start("emu");
  ASSERT_TRUE(residency->acquire(kOnDevice, {}).ok());
  EXPECT_FALSE(artifact->hasBytes(D::kUp));
  const auto kept = std::move(Artifact::open(path)).value();
  ASSERT_TRUE(kept->prepareWeights(1).ok());
  EXPECT_TRUE(kept->hasBytes(D::kUp));
  const uint64_t bytes = residency->bytesOf(D::kUp);
  EXPECT_EQ(std::memcmp(residency->address(kOnDevice), kept->weight(D::kUp).data(), bytes), 0);
  EXPECT_TRUE(residency->repair(kOnDevice).ok());
  EXPECT_EQ(std::memcmp(residency->address(kOnDevice), kept->weight(D::kUp).data(), bytes), 0);
  residency->release(kOnDevice);
  EXPECT_EQ(residency->acquire(kOnDevice, {.keepGoing = [] { return false; }}).code(),
            MOEPLAN_CANCELLED);
}

} // namespace
} // namespace moeplan::testing
