#include "runtime/tools/profile_fit.h"

#include <gtest/gtest.h>

namespace moeplan::tools {
namespace {

constexpr double kCache = 32e6;

/// A machine of known terms, whose samples have no noise.
Fit machine() {
  Fit fit;
  fit.tokenSeconds = 5e-6;
  fit.layerSeconds = 2e-5;
  fit.kvBytesPerSecond = 8e9;
  fit.prefillLayerSeconds = 3e-6;
  fit.kernels["bf16"] = {3.4e10, 6e10, 1e11};
  fit.kernels["int4"] = {2.5e10, 3e10, 2e11};
  return fit;
}

FitInput samplesOf(const Fit &fit) {
  FitInput input;
  input.readBytesPerSecond = 3.6e10;
  input.cacheBytes = kCache;
  auto add = [&](double layers, double held, double kv, std::map<std::string, double> bytes) {
    DecodeSample sample{std::move(bytes), 1e4, held, kv, layers, 0};
    sample.seconds = decodeSeconds(fit, input, sample);
    input.decode.push_back(sample);
  };
  for (const char *width : {"bf16", "int4"}) {
    add(2, 8e8, 2e6, {{width, 2e8}});
    add(2, 7e6, 1e5, {{width, 4e6}});
  }
  add(12, 2e6, 1e5, {{"bf16", 1e6}});
  add(12, 2e6, 2e6, {{"bf16", 1e6}});
  add(0, 2e6, 0, {{"bf16", 3e4}}); // outside the layers
  for (const auto &[layers, operations] : {std::pair(2.0, 2e8), std::pair(12.0, 1e6)})
    for (const auto &[width, kernel] : fit.kernels)
      input.prefill.push_back(
          {{{width, operations}},
           layers,
           layers * fit.prefillLayerSeconds + operations / kernel.prefillOperationsPerSecond});
  return input;
}

TEST(ProfileFit, FindsTheTermsOfAMachine) {
  const Fit truth = machine();
  const Fit fit = fitProfile(samplesOf(truth));
  EXPECT_NEAR(fit.tokenSeconds, truth.tokenSeconds, 1e-3 * truth.tokenSeconds);
  EXPECT_NEAR(fit.layerSeconds, truth.layerSeconds, 1e-3 * truth.layerSeconds);
  EXPECT_NEAR(fit.kvBytesPerSecond, truth.kvBytesPerSecond, 1e-3 * truth.kvBytesPerSecond);
  EXPECT_NEAR(fit.prefillLayerSeconds, truth.prefillLayerSeconds, 1e-3 * truth.prefillLayerSeconds);
  for (const auto &[width, kernel] : truth.kernels) {
    const KernelFit &found = fit.kernels.at(width);
    EXPECT_NEAR(found.decodeBytesPerSecond / kernel.decodeBytesPerSecond, 1, 1e-3) << width;
    EXPECT_NEAR(found.decodeCachedBytesPerSecond / kernel.decodeCachedBytesPerSecond, 1, 1e-3)
        << width;
    EXPECT_NEAR(found.prefillOperationsPerSecond / kernel.prefillOperationsPerSecond, 1, 1e-3)
        << width;
  }
}

TEST(ProfileFit, WithoutASmallProbeTheRateOfMemoryHoldsForAll) {
  FitInput input = samplesOf(machine());
  input.cacheBytes = 0;
  input.decode.resize(1); // bf16 from memory
  const Fit fit = fitProfile(input);
  EXPECT_EQ(fit.kernels.size(), 1u);
  EXPECT_EQ(fit.kernels.at("bf16").decodeCachedBytesPerSecond, 0);
  EXPECT_GT(fit.kernels.at("bf16").decodeBytesPerSecond, 0);
}

TEST(ProfileFit, NothingIsNegativeHoweverNoisyTheSamples) {
  FitInput input = samplesOf(machine());
  for (size_t i = 0; i < input.decode.size(); ++i)
    input.decode[i].seconds *= i % 2 == 0 ? 0.4 : 2.5;
  const Fit fit = fitProfile(input);
  EXPECT_GE(fit.tokenSeconds, 0);
  EXPECT_GE(fit.layerSeconds, 0);
  EXPECT_GE(fit.kvBytesPerSecond, 0);
  for (const auto &[width, kernel] : fit.kernels)
    EXPECT_GT(kernel.decodeBytesPerSecond, 0) << width;
}

TEST(ProfileFit, LeastSquaresLeavesOutWhatWouldBeNegative) {
  // x + y = 1 and 2 x + y = 1/3 (scaled to 1) ask for a negative x.
  const std::vector<double> solution = nonNegativeLeastSquares({{1, 1}, {6, 3}});
  EXPECT_EQ(solution[0], 0);
  EXPECT_NEAR(solution[1], 0.4, 1e-9); // (1 + 3) / (1 + 9)
  EXPECT_EQ(nonNegativeLeastSquares({{2, 0}})[1], 0);
  EXPECT_TRUE(nonNegativeLeastSquares({}).empty());
}

} // namespace
} // namespace moeplan::tools
