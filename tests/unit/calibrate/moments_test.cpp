#include "compiler/calibrate/moments.h"
#include "compiler/quantize/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moeplan::testing {
namespace {

using namespace compiler;

std::vector<float> randomFloats(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(count);
  for (float &value : values)
    value = float(int64_t(random() >> 40) - (1 << 23)) * 0x1p-23f;
  return values;
}

/// Element (i, j <= i) of a sum's triangles.
float elementOf(const std::vector<float> &triangles, uint64_t columns, uint64_t block, uint64_t i,
                uint64_t j) {
  const uint64_t begin = i / block * block, row = i - begin;
  (void)columns;
  return triangles[momentCount(begin ? begin : 0, block) + row * (row + 1) / 2 + (j - begin)];
}

TEST(MomentSumTest, IsTheSumOfOuterProducts) {
  for (auto [columns, block] : {std::pair(40, 40), {128, 128}, {7, 7}, {300, 128}, {50, 1}}) {
    const auto n = uint64_t(columns), b = uint64_t(block);
    const uint64_t stride = n + 3; // rows lie apart
    const std::vector<float> x = randomFloats(20 * stride, 3), factors = randomFloats(9, 5);
    const std::vector<uint32_t> rows{3, 0, 19, 7, 7, 1, 2, 12, 4};
    MomentSum sum(n, b);
    sum.add(x.data(), stride, rows.data(), factors.data(), 5);
    sum.add(x.data(), stride, rows.data() + 5, factors.data() + 5, 4);
    sum.add(x.data(), stride, nullptr, factors.data(), 0);
    sum.add(x.data(), stride, nullptr, factors.data(), 2); // rows 0 and 1
    const std::vector<float> triangles = sum.triangles();
    ASSERT_EQ(triangles.size(), momentCount(n, b));
    for (uint64_t i = 0; i < n; ++i)
      for (uint64_t j = i / b * b; j <= i; ++j) {
        double expected = 0;
        auto add = [&](uint32_t row, float factor) {
          expected +=
              double(x[row * stride + i]) * double(x[row * stride + j]) * double(factor) * factor;
        };
        for (size_t t = 0; t < rows.size(); ++t)
          add(rows[t], factors[t]);
        add(0, factors[0]);
        add(1, factors[1]);
        ASSERT_NEAR(elementOf(triangles, n, b, i, j), expected, 2e-6) << i << " " << j;
      }
  }
}

TEST(MomentSumTest, KnowsWhetherItIsFinite) {
  for (uint64_t block : {40, 1}) {
    std::vector<float> x = randomFloats(80, 7);
    const float factors[] = {1, 1};
    MomentSum sum(40, block);
    sum.add(x.data(), 40, nullptr, factors, 2);
    EXPECT_TRUE(sum.isFinite());
    x[79] = NAN;
    sum.add(x.data(), 40, nullptr, factors, 2);
    EXPECT_FALSE(sum.isFinite());
  }
}

TEST(MomentBlocksTest, AreAsLargeAsTheMemoryAllows) {
  auto blocks = [](uint64_t limit) {
    const MomentBlocks b = chooseMomentBlocks(4096, 14336, 256, limit);
    return std::pair(b.input, b.hidden);
  };
  using Pair = std::pair<uint64_t, uint64_t>;
  // All columns of 8x7B would take 4 * (4096^2 + 14336^2) bytes for each of 256 experts.
  EXPECT_EQ(blocks(uint64_t(300) << 30), Pair(4096, 14336));
  EXPECT_EQ(blocks(uint64_t(200) << 30), Pair(4096, 8192));
  EXPECT_EQ(blocks(uint64_t(4) << 30), Pair(128, 128));
  EXPECT_EQ(blocks(uint64_t(1) << 30), Pair(1, 1));
  for (uint64_t limit : {uint64_t(3) << 30, uint64_t(20) << 30, uint64_t(90) << 30}) {
    const auto [input, hidden] = blocks(limit);
    EXPECT_LE(256 * (MomentSum::bytes(4096, input) + MomentSum::bytes(14336, hidden)), limit);
  }
  const MomentBlocks tiny = chooseMomentBlocks(128, 256, 32, uint64_t(1) << 30);
  EXPECT_EQ(Pair(tiny.input, tiny.hidden), Pair(128, 256));
}

} // namespace
} // namespace moeplan::testing
