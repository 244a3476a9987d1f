#include "runtime/device/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sys/resource.h>

namespace moeplan::testing {
namespace {

TEST(HostMemoryTest, IsZeroedAlignedToPagesAndWritable) {
  auto memory = HostMemory::allocate(10001, "arena");
  ASSERT_TRUE(memory.ok());
  std::byte *data = memory.value().data();
  EXPECT_EQ(memory.value().bytes(), 10001u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 4096, 0u);
  EXPECT_TRUE(std::all_of(data, data + 10001, [](std::byte b) { return b == std::byte(0); }));
  std::fill_n(data, 10001, std::byte(1));
}

TEST(HostMemoryTest, NoBytesNeedNoMemory) {
  auto memory = HostMemory::allocate(0, "arena");
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(memory.value().data(), nullptr);
  EXPECT_EQ(memory.value().bytes(), 0u);
}

TEST(HostMemoryTest, PagesThatAreNotTouchedCostNothing) {
  // Far less than any machine has free, far more than a test should write.
  constexpr uint64_t kBytes = 1 << 29;
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  auto memory = HostMemory::allocate(kBytes, "KV cache");
  ASSERT_TRUE(memory.ok()) << memory.failure().message();
  memory.value().data()[kBytes - 1] = std::byte(1);
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(uint64_t(after.ru_maxrss - before.ru_maxrss) * 1024, kBytes / 8);
}

TEST(HostMemoryTest, WhatCannotBeAllocatedIsNamed) {
  auto memory = HostMemory::allocate(uint64_t(1) << 62, "KV cache");
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.failure().code(), MOEPLAN_RESOURCE_EXHAUSTED);
  EXPECT_TRUE(memory.failure().message().starts_with(
      "cannot allocate 4611686018427387904 bytes for the KV cache: "))
      << memory.failure().message();
}

TEST(HostMemoryTest, MovesWithItsPages) {
  HostMemory first = HostMemory::allocate(64, "arena").value();
  std::byte *data = first.data();
  data[0] = std::byte(5);
  HostMemory second = std::move(first);
  EXPECT_EQ(first.data(), nullptr);
  HostMemory third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.data()[0], std::byte(5));
}

} // namespace
} // namespace moeplan::testing
