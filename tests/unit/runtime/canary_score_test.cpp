// The arithmetic of canaries.
#include "runtime/session/canary_score.h"
#include "runtime/support/likelihood.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moeplan::testing {
namespace {

TEST(CanaryScoreTest, LogSoftmax) {
  const std::vector<float> logits = {1, 2, 3};
  std::vector<double> out(3);
  ASSERT_TRUE(logSoftmax(logits, out));
  const double sum = std::exp(1) + std::exp(2) + std::exp(3);
  for (int i = 0; i < 3; ++i)
    EXPECT_NEAR(out[i], i + 1 - std::log(sum), 1e-12);
  const std::vector<float> large = {1000, 1001};
  out.resize(2);
  ASSERT_TRUE(logSoftmax(large, out));
  EXPECT_NEAR(out[1], -std::log1p(std::exp(-1)), 1e-12);
  const std::vector<std::vector<float>> broken = {
      {NAN, 1}, {1, NAN}, {INFINITY, 1}, {-INFINITY, 1}};
  for (const std::vector<float> &row : broken)
    EXPECT_FALSE(logSoftmax(row, out)) << row[0] << ", " << row[1];
}

TEST(CanaryScoreTest, DivergenceOverTheLikeliestIsABoundFromBelow) {
  const std::vector<double> p = {0.5, 0.3, 0.15, 0.05}, q = {0.4, 0.25, 0.05, 0.3};
  std::vector<double> ours;
  for (double value : q)
    ours.push_back(std::log(value));
  auto lumped = [&](size_t top) {
    std::vector<uint32_t> tokens;
    std::vector<float> reference;
    for (size_t i = 0; i < top; ++i) {
      tokens.push_back(uint32_t(i));
      reference.push_back(float(std::log(p[i])));
    }
    return lumpedDivergence(tokens, reference, ours);
  };
  double full = 0;
  for (size_t i = 0; i < p.size(); ++i)
    full += p[i] * std::log(p[i] / q[i]);
  EXPECT_NEAR(lumped(4), full, 1e-6);
  // Two tokens, and the other two as one.
  EXPECT_NEAR(lumped(2),
              0.5 * std::log(0.5 / 0.4) + 0.3 * std::log(0.3 / 0.25) + 0.2 * std::log(0.2 / 0.35),
              1e-6);
  EXPECT_LT(lumped(1), lumped(2));
  EXPECT_LT(lumped(2), full);
  // Nothing is left for the others.
  const std::vector<double> certain = {std::log(1.0), std::log(1e-30)};
  const std::vector<uint32_t> first = {0};
  const std::vector<float> sure = {0};
  EXPECT_NEAR(lumpedDivergence(first, sure, certain), 0, 1e-9);
}

TEST(CanaryScoreTest, PerplexityIncrease) {
  const std::vector<float> reference = {-1, -2}, ours = {-1.5, -2.5};
  EXPECT_NEAR(perplexityIncrease(reference, ours), std::exp(0.5) - 1, 1e-12);
  EXPECT_EQ(perplexityIncrease(reference, reference), 0);
}

} // namespace
} // namespace moeplan::testing
