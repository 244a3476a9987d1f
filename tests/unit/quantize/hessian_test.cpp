#include "compiler/quantize/hessian.h"
#include "tests/unit/quantize/quantize_test.h"

#include <cmath>

namespace moeplan::testing {
namespace {

using namespace compiler;

TEST(HessianTest, CountsAndDiagonals) {
  EXPECT_EQ(momentCount(5, 5), 15u);
  EXPECT_EQ(momentCount(5, 1), 5u);
  EXPECT_EQ(momentCount(300, 128), 2u * (128 * 129 / 2) + 44 * 45 / 2);
  // 1; 2 3; 4 5 6 | 7; 8 9
  const float values[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  EXPECT_EQ(diagonalOf({5, 3, values}), (std::vector<float>{1, 3, 6, 7, 9}));
  EXPECT_EQ(diagonalOf({3, 1, values}), (std::vector<float>{1, 2, 3}));
}

TEST(HessianTest, FeedbackDiagonalisesTheHessian) {
  // U^T U = H^-1 with unit rows V = D^-1 U: V H V^T = D^-2, a diagonal.
  constexpr uint64_t kColumns = 70;
  const std::vector<float> moments = activationMoments(kColumns, kColumns, 71);
  const FactoredHessian hessian({kColumns, kColumns, moments.data()}, 5000);
  ASSERT_EQ(hessian.blocks().size(), 1u);
  const HessianBlock &block = hessian.blocks().front();
  auto h = [&](uint64_t i, uint64_t j) {
    return double(block.matrix[block.order[i] * kColumns + block.order[j]]);
  };
  auto v = [&](uint64_t i, uint64_t j) { return double(block.feedback[i * kColumns + j]); };
  std::vector<double> diagonal(kColumns);
  for (int pass : {0, 1})
    for (uint64_t a = 0; a < kColumns; ++a)
      for (uint64_t b = 0; b < kColumns; ++b) {
        if ((pass == 0) != (a == b))
          continue;
        double sum = 0;
        for (uint64_t i = 0; i < kColumns; ++i)
          for (uint64_t j = 0; j < kColumns; ++j)
            sum += v(a, i) * h(i, j) * v(b, j);
        if (pass == 0) {
          EXPECT_GT(sum, 0);
          EXPECT_EQ(v(a, a), 1.0);
          diagonal[a] = sum;
        } else {
          EXPECT_NEAR(sum, 0, 1e-4 * std::sqrt(diagonal[a] * diagonal[b])) << a << " " << b;
        }
      }
  for (uint64_t i = 0; i < kColumns; ++i)
    for (uint64_t j = 0; j < i; ++j)
      EXPECT_EQ(v(i, j), 0);
}

TEST(HessianTest, ColumnsComeByFallingDiagonal) {
  const std::vector<float> moments = activationMoments(40, 40, 73);
  const FactoredHessian hessian({40, 40, moments.data()}, 5000);
  const HessianBlock &block = hessian.blocks().front();
  for (uint64_t i = 1; i < 40; ++i)
    EXPECT_GE(block.matrix[block.order[i - 1] * 41], block.matrix[block.order[i] * 41]);
}

TEST(HessianTest, DampingIsRelativeAndGrowsWhereTokensAreFew) {
  const std::vector<float> moments = activationMoments(64, 64, 79);
  auto damping = [&](uint64_t tokens) {
    const FactoredHessian hessian({64, 64, moments.data()}, tokens);
    return double(hessian.blocks().front().matrix[0]) - double(moments[0]);
  };
  double mean = 0;
  for (float value : diagonalOf({64, 64, moments.data()}))
    mean += double(value) / 64;
  EXPECT_NEAR(damping(1u << 30), 0.01 * mean, 1e-4 * mean);
  EXPECT_NEAR(damping(64), 0.02 * mean, 1e-4 * mean);
}

TEST(HessianTest, MomentsOfNothingAreSurvived) {
  const std::vector<float> moments(momentCount(50, 50), 0.0f);
  const FactoredHessian hessian({50, 50, moments.data()}, 0);
  for (float value : hessian.blocks().front().feedback)
    EXPECT_TRUE(std::isfinite(value));
}

} // namespace
} // namespace moeplan::testing
