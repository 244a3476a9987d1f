#include "compiler/quantize/hessian.h"
#include "compiler/quantize/lanes.h"
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

FactoredHessian factored(uint64_t columns, const std::vector<float> &moments, uint64_t tokens,
                         unsigned threads = 1) {
  llvm::DefaultThreadPool pool(llvm::hardware_concurrency(threads));
  return FactoredHessian({uint32_t(columns), uint32_t(columns), moments.data()}, tokens, pool);
}

/// Of columns: within a tile of the factorisation, a whole one, its neighbours, several.
class FeedbackTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(FeedbackTest, FactorsTheHessian) {
  // H = N E N^T; E follows from the diagonal, the rest of H is the test.
  const uint64_t columns = GetParam();
  const std::vector<float> moments = activationMoments(columns, columns, 71);
  const FactoredHessian hessian = factored(columns, moments, 5000);
  ASSERT_EQ(hessian.blocks().size(), 1u);
  const HessianBlock &block = hessian.blocks().front();
  auto h = [&](uint64_t i, uint64_t j) {
    return double(block.matrix[block.order[i] * columns + block.order[j]]);
  };
  std::vector<double> n(columns * columns), e(columns);
  for (uint64_t i = 0; i < columns; ++i) {
    n[i * columns + i] = 1;
    std::copy_n(block.feedbackRow(i), columns - 1 - i,
                n.begin() + ptrdiff_t(i * (columns + 1) + 1));
  }
  auto product = [&](uint64_t i, uint64_t j, uint64_t begin) {
    double sum = 0;
    for (uint64_t m = begin; m < columns; ++m)
      sum += n[i * columns + m] * e[m] * n[j * columns + m];
    return sum;
  };
  for (uint64_t k = columns; k-- > 0;) {
    e[k] = h(k, k) - product(k, k, k + 1);
    ASSERT_GT(e[k], 0) << k;
  }
  for (uint64_t i = 0; i < columns; ++i)
    for (uint64_t j = 0; j <= i; ++j)
      ASSERT_NEAR(product(i, j, i), h(i, j), 1e-6 * std::sqrt(h(i, i) * h(j, j))) << i << " " << j;
}

TEST_P(FeedbackTest, DependsNeitherOnThreadsNorOnTheWidthOfVectors) {
  const uint64_t columns = GetParam();
  const std::vector<float> moments = activationMoments(columns, columns, 72);
  const FactoredHessian one = factored(columns, moments, 5000);
  for (unsigned threads : {2u, 5u}) {
    const FactoredHessian several = factored(columns, moments, 5000, threads);
    EXPECT_EQ(several.blocks()[0].feedback, one.blocks()[0].feedback);
    EXPECT_EQ(several.blocks()[0].matrix, one.blocks()[0].matrix);
  }
  for (unsigned lanes : {8u, 4u}) {
    limitLanes(lanes);
    EXPECT_EQ(factored(columns, moments, 5000).blocks()[0].feedback, one.blocks()[0].feedback);
  }
  limitLanes(kLanes);
}

INSTANTIATE_TEST_SUITE_P(Columns, FeedbackTest, ::testing::Values(1, 2, 70, 127, 128, 129, 400));

TEST(HessianTest, BlocksFollowOneAnother) {
  const std::vector<float> moments = activationMoments(300, 128, 77);
  llvm::DefaultThreadPool pool(llvm::hardware_concurrency(2));
  const FactoredHessian all({300, 128, moments.data()}, 5000, pool);
  ASSERT_EQ(all.blocks().size(), 3u);
  const uint64_t sizes[] = {128, 128, 44};
  for (uint64_t b = 0; b < 3; ++b) {
    const uint64_t skipped = b * momentCount(128, 128);
    const std::vector<float> own(moments.begin() + ptrdiff_t(skipped),
                                 moments.begin() + ptrdiff_t(skipped + momentCount(sizes[b], 128)));
    const FactoredHessian alone = factored(sizes[b], own, 5000);
    EXPECT_EQ(all.blocks()[b].begin, b * 128);
    EXPECT_EQ(all.blocks()[b].matrix, alone.blocks()[0].matrix);
    EXPECT_EQ(all.blocks()[b].feedback, alone.blocks()[0].feedback);
  }
}

TEST(HessianTest, ColumnsComeByFallingDiagonal) {
  const std::vector<float> moments = activationMoments(40, 40, 73);
  const FactoredHessian hessian = factored(40, moments, 5000);
  const HessianBlock &block = hessian.blocks().front();
  for (uint64_t i = 1; i < 40; ++i)
    EXPECT_GE(block.matrix[block.order[i - 1] * 41], block.matrix[block.order[i] * 41]);
}

TEST(HessianTest, DampingIsRelativeAndGrowsWhereTokensAreFew) {
  const std::vector<float> moments = activationMoments(64, 64, 79);
  auto damping = [&](uint64_t tokens) {
    const FactoredHessian hessian = factored(64, moments, tokens);
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
  const FactoredHessian hessian = factored(50, moments, 0);
  for (float value : hessian.blocks().front().feedback)
    EXPECT_TRUE(std::isfinite(value));
}

} // namespace
} // namespace moeplan::testing
