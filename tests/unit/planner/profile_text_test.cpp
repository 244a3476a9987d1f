#include "runtime/tools/profile_text.h"

#include "compiler/profile/profile.h"

#include <gtest/gtest.h>

using namespace moeplan;

namespace {

tools::MachineProfile machine() {
  tools::MachineProfile machine;
  machine.name = "a \"machine\"\nof \\ two lines";
  machine.hostName = "CPU";
  machine.memoryBytes = uint64_t(24) << 30;
  machine.cacheBytes = uint64_t(32) << 20;
  machine.threads = 2;
  machine.readBytesPerSecond = {{1, 2e10}, {2, 3.37e10}};
  machine.fit.layerSeconds = 2.5e-5;
  machine.fit.kvBytesPerSecond = 8e9;
  machine.fit.kernels["int4"] = {2.5e10, 3e10, 2e11};
  machine.fit.kernels["bf16"] = {3.4e10, 0, 1e11};
  return machine;
}

compiler::Profile parse(const tools::MachineProfile &machine) {
  auto profile = compiler::parseProfile(tools::profileText(machine), "machine.toml");
  if (profile)
    return *profile;
  ADD_FAILURE() << llvm::toString(profile.takeError());
  return {};
}

TEST(ProfileText, IsWhatTheCompilerReads) {
  const compiler::Profile profile = parse(machine());
  EXPECT_EQ(profile.name, "a \"machine\" of \\ two lines");
  EXPECT_EQ(profile.host.name, "CPU");
  EXPECT_EQ(profile.host.memoryBytes, uint64_t(24) << 30);
  EXPECT_EQ(profile.host.cacheBytes, uint64_t(32) << 20);
  EXPECT_EQ(profile.hostThreads, 2u);
  EXPECT_EQ(profile.hostReadBytesPerSecond.at(1), 2e10);
  EXPECT_EQ(profile.host.readBytesPerSecond, 3.37e10);
  EXPECT_EQ(profile.host.tokenSeconds, 0);
  EXPECT_EQ(profile.host.layerSeconds, 2.5e-5);
  EXPECT_EQ(profile.host.kvBytesPerSecond, 8e9);
  EXPECT_EQ(profile.host.kernels.at("int4").decodeCachedBytesPerSecond, 3e10);
  EXPECT_EQ(profile.host.kernels.at("bf16").decodeCachedBytesPerSecond, 0);
  EXPECT_EQ(profile.host.kernels.at("bf16").prefillOperationsPerSecond, 1e11);
  EXPECT_FALSE(profile.device);
}

TEST(ProfileText, ADeviceComesWithItsTransfers) {
  tools::MachineProfile machine = ::machine();
  machine.device = {"GPU", uint64_t(80) << 30, uint64_t(500) << 20, 2e12, 6e9, 2.5e10, 8e-6};
  const compiler::Profile profile = parse(machine);
  ASSERT_TRUE(profile.device);
  EXPECT_EQ(profile.device->contextBytes, uint64_t(500) << 20);
  EXPECT_EQ(profile.device->kernels.at("int3").decodeBytesPerSecond, 2e12);
  EXPECT_EQ(profile.transfer.pageableBytesPerSecond, 6e9);
  EXPECT_EQ(profile.transfer.inPlaceBytesPerSecond, 2.5e10);
  EXPECT_EQ(profile.transfer.latencySeconds, 8e-6);
}

} // namespace
