#include "runtime/device/cpu_features.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

TEST(CpuFeaturesTest, AnUnknownFeatureIsMissing) {
  EXPECT_FALSE(isKnownCpuFeature("avx9000"));
  EXPECT_FALSE(isKnownCpuFeature(""));
  EXPECT_FALSE(hasCpuFeature("avx9000"));
  EXPECT_EQ(missingCpuFeatures({"avx9000"}), std::vector<std::string>{"avx9000"});
  EXPECT_TRUE(missingCpuFeatures({}).empty());
}

#if defined(__x86_64__)

// The compiler's own detection, an independent reading of the same registers.
TEST(CpuFeaturesTest, AgreesWithTheCompilersDetection) {
  __builtin_cpu_init();
#define EXPECT_AGREES(name)                                                                        \
  do {                                                                                             \
    EXPECT_TRUE(isKnownCpuFeature(name));                                                          \
    EXPECT_EQ(hasCpuFeature(name), bool(__builtin_cpu_supports(name))) << name;                    \
  } while (false)
  EXPECT_AGREES("sse2");
  EXPECT_AGREES("sse3");
  EXPECT_AGREES("ssse3");
  EXPECT_AGREES("sse4.1");
  EXPECT_AGREES("sse4.2");
  EXPECT_AGREES("popcnt");
  EXPECT_AGREES("aes");
  EXPECT_AGREES("pclmul");
  EXPECT_AGREES("avx");
  EXPECT_AGREES("avx2");
  EXPECT_AGREES("fma");
  EXPECT_AGREES("bmi");
  EXPECT_AGREES("bmi2");
  EXPECT_AGREES("avx512f");
  EXPECT_AGREES("avx512bw");
  EXPECT_AGREES("avx512cd");
  EXPECT_AGREES("avx512dq");
  EXPECT_AGREES("avx512vl");
  EXPECT_AGREES("avx512vbmi");
  EXPECT_AGREES("avx512vnni");
  EXPECT_AGREES("avx512bitalg");
  EXPECT_AGREES("avx512vpopcntdq");
  EXPECT_AGREES("gfni");
  EXPECT_AGREES("vpclmulqdq");
#undef EXPECT_AGREES
}

TEST(CpuFeaturesTest, EveryX8664MachineHasTheBaseline) {
  EXPECT_TRUE(missingCpuFeatures({"64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2"}).empty());
}

TEST(CpuFeaturesTest, WhatIsMissingKeepsItsOrder) {
  EXPECT_EQ(missingCpuFeatures({"no-b", "sse2", "no-a"}),
            (std::vector<std::string>{"no-b", "no-a"}));
}

#endif

} // namespace
} // namespace moeplan::testing
