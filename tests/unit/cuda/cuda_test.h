// The cuda device against a driver that the CPU plays (tests/simt).
#pragma once

#include "tests/simt/fake_cuda.h"
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

namespace moeplan::testing {

inline constexpr int kOutOfMemory = 2, kLaunchFailed = 719;

/// Leaves the driver as it was found: nothing to fail, nothing kept.
class CudaTest : public ::testing::Test {
protected:
  CudaTest() { fake_cuda_reset(); }
  ~CudaTest() override {
    fake_cuda_reset();
    fake_cuda_set_device(90, uint64_t(1) << 30);
    EXPECT_EQ(fake_cuda_live_objects(), 0);
    EXPECT_EQ(fake_cuda_device_bytes(), 0u);
  }
};

} // namespace moeplan::testing
