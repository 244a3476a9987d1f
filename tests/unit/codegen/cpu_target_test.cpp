#include "compiler/codegen/cpu_target.h"
#include "runtime/device/cpu_features.h"
#include "tests/unit/codegen/kernel_test.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace moeplan::compiler {
namespace {

CpuTarget resolved(const char *request) {
  auto target = resolveCpuTarget(request);
  if (target)
    return *target;
  ADD_FAILURE() << llvm::toString(target.takeError());
  return {};
}

bool needs(const CpuTarget &target, const char *feature) {
  return std::find(target.features.begin(), target.features.end(), feature) !=
         target.features.end();
}

TEST(CpuTargetTest, ALevelNeedsItsExtensions) {
  const CpuTarget v3 = resolved("x86-64-v3");
  EXPECT_EQ(v3.cpu, "x86-64-v3");
  EXPECT_TRUE(v3.triple.starts_with("x86_64"));
  // The definition of the level: System V ABI, AMD64 supplement, table 3.1.
  for (const char *feature :
       {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse4.2", "cx16"})
    EXPECT_TRUE(needs(v3, feature)) << feature;
  for (const char *feature : {"avx512f", "avx512vl", "avxvnni", "sse4a"})
    EXPECT_FALSE(needs(v3, feature)) << feature;
}

TEST(CpuTargetTest, ACpuGetsTheBestKernelsThatItRuns) {
  const std::pair<const char *, std::string_view> expected[] = {{"x86-64", "baseline"},
                                                                {"x86-64-v2", "baseline"},
                                                                {"x86-64-v3", "avx2"},
                                                                {"haswell", "avx2"},
                                                                {"alderlake", "avxvnni"},
                                                                {"x86-64-v4", "avx512"},
                                                                {"skylake-avx512", "avx512"},
                                                                {"cascadelake", "avx512vnni"},
                                                                {"icelake-server", "avx512vnni"},
                                                                {"cooperlake", "avx512bf16"},
                                                                {"znver4", "avx512bf16"},
                                                                {"sapphirerapids", "avx512bf16"}};
  for (const auto &[cpu, kernels] : expected)
    EXPECT_EQ(resolved(cpu).kernels->name, kernels) << cpu;
}

TEST(CpuTargetTest, EveryKernelLibraryIsOfSomeTargetOfTheKernelTests) {
  std::set<std::string_view> tested;
  for (const char *cpu : testing::kKernelTargets)
    tested.insert(resolved(cpu).kernels->name);
  for (const CpuKernelBitcode &kernels : kCpuKernelBitcodes)
    EXPECT_TRUE(tested.contains(kernels.name)) << kernels.name;
}

TEST(CpuTargetTest, KernelLibrariesNeedOnlyWhatTheRuntimeCanDetect) {
  for (const CpuKernelBitcode &kernels : kCpuKernelBitcodes) {
    EXPECT_FALSE(kernels.bytes().empty()) << kernels.name;
    for (std::string_view feature : kernels.needs)
      EXPECT_TRUE(feature.empty() || isKnownCpuFeature(feature)) << feature;
  }
}

TEST(CpuTargetTest, ALevelIncludesTheOneBelow) {
  const char *levels[] = {"x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"};
  for (size_t i = 1; i < std::size(levels); ++i) {
    const CpuTarget lower = resolved(levels[i - 1]), higher = resolved(levels[i]);
    EXPECT_TRUE(std::includes(higher.features.begin(), higher.features.end(),
                              lower.features.begin(), lower.features.end()))
        << levels[i];
  }
}

TEST(CpuTargetTest, TheHostRunsWhatIsCompiledForIt) {
  const CpuTarget host = resolved("host");
  EXPECT_EQ(missingCpuFeatures(host.features), std::vector<std::string>());
  EXPECT_NE(host.cpu, "host");
}

TEST(CpuTargetTest, WhatTheRuntimeCannotDetectIsNotUsed) {
  for (const char *cpu : {"x86-64-v4", "znver4", "sapphirerapids", "host"}) {
    const CpuTarget target = resolved(cpu);
    EXPECT_TRUE(std::is_sorted(target.features.begin(), target.features.end()));
    for (const std::string &feature : target.features) {
      EXPECT_TRUE(isKnownCpuFeature(feature)) << feature;
      EXPECT_NE(("," + target.llvmFeatures + ",").find(",+" + feature + ","), std::string::npos)
          << feature;
    }
    EXPECT_EQ(size_t(std::count(target.llvmFeatures.begin(), target.llvmFeatures.end(), '+')),
              target.features.size());
  }
}

TEST(CpuTargetTest, AnUnknownCpuIsRefusedWithTheNearestKnown) {
  auto target = resolveCpuTarget("x86-64-v5");
  ASSERT_FALSE(bool(target));
  const std::string message = llvm::toString(target.takeError());
  EXPECT_TRUE(message.starts_with("unknown target CPU 'x86-64-v5' (nearest known: 'x86-64"))
      << message;
  EXPECT_TRUE(message.ends_with("; 'host' is this machine's)")) << message;
  auto typo = resolveCpuTarget("znvre4");
  ASSERT_FALSE(bool(typo));
  EXPECT_NE(llvm::toString(typo.takeError()).find("nearest known: 'znver4'"), std::string::npos);
}

} // namespace
} // namespace moeplan::compiler
