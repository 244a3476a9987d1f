// Devices: how they are named, their budgets, and the emulated link.
#include "runtime/device/device.h"
#include "runtime/device/emulated_device.h"
#include "runtime/device/memory_pool.h"

#include <gtest/gtest.h>

#include <cstring>

namespace moeplan::testing {
namespace {

std::string refusal(std::string_view text) {
  auto device = Device::create(text);
  return device.ok() ? "" : device.failure().message();
}

TEST(DeviceTest, Names) {
  EXPECT_STREQ(Device::create("cpu").value()->name(), "cpu");
  EXPECT_FALSE(Device::create("cpu").value()->hasOwnMemory());
  const auto device = Device::create("emu:device_memory=24GiB,copy=25GB/s,latency=10us");
  ASSERT_TRUE(device.ok());
  EXPECT_TRUE(device.value()->hasOwnMemory());
  EXPECT_EQ(device.value()->budget(), uint64_t(24) << 30);
  EXPECT_EQ(device.value()->copyBandwidth(), 25e9);
  EXPECT_EQ(Device::create("emu").value()->budget(), Device::kNoBudget);
  EXPECT_EQ(refusal("gpu"), "no device 'gpu'; there are cpu, cuda and emu");
  EXPECT_EQ(refusal("cpu:copy=1GB/s"), "device 'cpu' has no options");
  EXPECT_EQ(refusal("emu:copy=25GB"),
            "device 'emu': 'copy=25GB': a bandwidth expected, as copy=25GB/s");
  EXPECT_EQ(refusal("emu:device_memory=x"),
            "device 'emu': 'device_memory=x': bytes expected, as device_memory=24GiB");
  EXPECT_EQ(refusal("emu:latency=10"),
            "device 'emu': 'latency=10': a time expected, as latency=10us");
  EXPECT_EQ(refusal("emu:memory=1"),
            "device 'emu': 'memory=1': the options are device_memory, copy and latency");
}

TEST(DeviceTest, AllocationsCountUntilTheyEnd) {
  const auto device = std::move(Device::create("emu:device_memory=1000")).value();
  auto first = device->allocate(600, "arena");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(device->used(), 600u);
  EXPECT_EQ(device->allocateForWeights(401).failure().message(),
            "no device memory for the weights: 401 bytes wanted, 400 of 1000 left");
  {
    const auto second = device->allocateForWeights(400);
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(device->available(), 0u);
  }
  EXPECT_EQ(device->used(), 600u);
  device->setBudget(500); // what is there stays
  EXPECT_EQ(device->available(), 0u);
  first = DeviceMemory();
  EXPECT_EQ(device->available(), 500u);
}

TEST(DeviceTest, TheLinkTakesItsTimeOneAfterTheOther) {
  EmulatedLink link(1e6, 1e-3);
  const auto start = EmulatedLink::Clock::now();
  link.begin(500);
  // A transfer behind another one: both their bytes, and the latency once.
  const auto end = link.begin(500);
  EXPECT_GE(end - start, std::chrono::microseconds(2000));
  EmulatedLink::waitUntil(end);
  EXPECT_GE(EmulatedLink::Clock::now(), end);
}

TEST(DeviceTest, CopiesArrive) {
  const auto device = std::move(Device::create("emu")).value();
  auto memory = device->allocateForWeights(100);
  ASSERT_TRUE(memory.ok());
  std::vector<std::byte> source(100, std::byte(7));
  auto transfer = device->beginCopy(memory.value().data(), source.data(), source.size());
  ASSERT_TRUE(transfer.ok());
  EXPECT_TRUE(device->finish(transfer.value()).ok());
  EXPECT_EQ(std::memcmp(memory.value().data(), source.data(), source.size()), 0);
}

TEST(MemoryPoolTest, WhatComesBackIsUsedAgain) {
  MemoryPool pool;
  std::byte *a = pool.allocate(1000, "test").value();
  std::byte *b = pool.allocate(1000, "test").value();
  std::byte *c = pool.allocate(1000, "test").value();
  EXPECT_EQ(b - a, 1024);
  pool.release(a, 1000);
  EXPECT_EQ(pool.allocate(100, "test").value(), a);
  pool.release(a, 100);
  pool.release(b, 1000); // joins its neighbour on the left
  EXPECT_EQ(pool.allocate(2000, "test").value(), a);
  pool.release(c, 1000); // joins what is behind it
  EXPECT_EQ(pool.allocate(5000, "test").value(), c);
}

TEST(MemoryPoolTest, LargeBlocksGetAPieceOfTheirOwn) {
  MemoryPool pool;
  const uint64_t large = uint64_t(100) << 20;
  std::byte *a = pool.allocate(large, "test").value();
  a[0] = a[large - 1] = std::byte(1);
  pool.release(a, large);
  EXPECT_EQ(pool.allocate(large, "test").value(), a);
}

} // namespace
} // namespace moeplan::testing
