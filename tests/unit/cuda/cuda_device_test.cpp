#include "runtime/device/cuda/cuda_device.h"
#include "tests/unit/cuda/cuda_test.h"

#include <cstring>
#include <numeric>

namespace moeplan::testing {
namespace {

using CudaDeviceTest = CudaTest;

TEST_F(CudaDeviceTest, KnowsItsDevice) {
  auto device = Device::create("cuda:0,device_memory=64MiB");
  ASSERT_TRUE(device.ok());
  CudaDevice *cuda = device.value()->cuda();
  ASSERT_TRUE(cuda);
  EXPECT_EQ(cuda->capability(), 90u);
  EXPECT_EQ(cuda->model(), "a CPU that plays a GPU");
  EXPECT_EQ(cuda->budget(), 64u << 20);
}

TEST_F(CudaDeviceTest, TheBudgetIsNeverMoreThanIsFree) {
  fake_cuda_set_device(90, 32 << 20);
  EXPECT_EQ(Device::create("cuda:device_memory=64MiB").value()->budget(), 32u << 20);
}

TEST_F(CudaDeviceTest, WhatCannotBeSaysWhy) {
  const auto messageOf = [](const char *text) {
    return std::string(Device::create(text).failure().message());
  };
  EXPECT_EQ(messageOf("cuda:7"), "there is no CUDA device 7; the driver has 1");
  EXPECT_EQ(messageOf("cuda:fast"),
            "device 'cuda': 'fast': the number of a device or device_memory "
            "expected, as in cuda:0,device_memory=24GiB");
  EXPECT_EQ(messageOf("cuda:device_memory=much"),
            "device 'cuda': 'device_memory=much': bytes expected, as device_memory=24GiB");
  fake_cuda_fail_call(0, kLaunchFailed);
  EXPECT_EQ(messageOf("cuda"),
            "CUDA driver, init: CUDA_ERROR_LAUNCH_FAILED (719), as a test wanted it");
}

TEST_F(CudaDeviceTest, CopiesLargerThanTheirBuffersArrive) {
  auto device = Device::create("cuda");
  ASSERT_TRUE(device.ok());
  std::vector<uint32_t> sent(3 << 20), received(sent.size());
  std::iota(sent.begin(), sent.end(), 5u);
  const uint64_t bytes = sent.size() * 4;
  auto memory = device.value()->allocate(bytes, "test");
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(device.value()->used(), bytes);
  auto *read = reinterpret_cast<std::byte *>(received.data());
  ASSERT_TRUE(device.value()->readBack(read, memory.value().data(), bytes).ok());
  EXPECT_EQ(received, std::vector<uint32_t>(sent.size())) << "it was to be zeros";
  auto transfer = device.value()->beginCopy(
      memory.value().data(), reinterpret_cast<const std::byte *>(sent.data()), bytes);
  ASSERT_TRUE(transfer.ok());
  ASSERT_TRUE(device.value()->finish(transfer.value()).ok());
  ASSERT_TRUE(device.value()->readBack(read, memory.value().data(), bytes).ok());
  EXPECT_EQ(received, sent);
}

TEST_F(CudaDeviceTest, MeasuresItsMemory) {
  auto device = Device::create("cuda");
  ASSERT_TRUE(device.ok());
  const auto link = device.value()->cuda()->measureLinkBandwidth(1 << 20, 2);
  ASSERT_TRUE(link.ok());
  EXPECT_GT(link.value(), 0);
  const auto rate = device.value()->cuda()->measureCopyBandwidth(1 << 20, 2);
  ASSERT_TRUE(rate.ok());
  EXPECT_GT(rate.value(), 0);
  EXPECT_EQ(device.value()->used(), 0u);
  EXPECT_EQ(device.value()->cuda()->measureCopyBandwidth(uint64_t(2) << 30, 1).failure().code(),
            MOEPLAN_RESOURCE_EXHAUSTED);
}

TEST_F(CudaDeviceTest, OutOfMemoryIsAStatusAndNotTheEnd) {
  auto device = Device::create("cuda");
  ASSERT_TRUE(device.ok());
  fake_cuda_set_device(90, 4 << 20); // less than the budget that it had
  const auto refused = device.value()->allocateForWeights(8 << 20);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().code(), MOEPLAN_RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.failure().message(),
            "CUDA driver, memAlloc: CUDA_ERROR_OUT_OF_MEMORY (2), out of memory");
  EXPECT_EQ(device.value()->used(), 0u);
  EXPECT_TRUE(device.value()->allocateForWeights(1 << 20).ok());
}

TEST_F(CudaDeviceTest, EveryCallMayFail) {
  bool failed = true;
  int64_t nth = 0;
  for (; failed; ++nth) {
    ASSERT_LT(nth, 200);
    fake_cuda_fail_call(nth, kOutOfMemory);
    auto device = Device::create("cuda");
    failed = !device.ok();
    if (failed) {
      EXPECT_EQ(device.failure().code(), MOEPLAN_RESOURCE_EXHAUSTED) << nth;
      EXPECT_EQ(fake_cuda_live_objects(), 0) << "call " << nth;
    }
    fake_cuda_reset();
  }
  EXPECT_GT(nth, 10);
}

} // namespace
} // namespace moeplan::testing
