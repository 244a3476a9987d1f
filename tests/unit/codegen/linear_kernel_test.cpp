#include "tests/unit/codegen/kernel_test.h"

namespace moeplan::testing {
namespace {

struct Shape {
  int64_t in, out, rowsPerTile;
};

/// No multiple of a vector, of a tile, or of either; smaller than a vector; larger than a tile.
struct Case {
  Shape shape;
  moeplan_format format;
  int64_t accumulate;
};
constexpr Case kCases[] = {{{1, 1, 1}, MOEPLAN_FORMAT_F32, 0},
                           {{7, 5, 4}, MOEPLAN_FORMAT_BF16, 1},
                           {{192, 129, 32}, MOEPLAN_FORMAT_BF16, 0},
                           {{320, 192, 5}, MOEPLAN_FORMAT_F32, 1},
                           {{129, 33, 64}, MOEPLAN_FORMAT_F32, 0},
                           {{129, 33, 64}, MOEPLAN_FORMAT_BF16, 1},
                           {{33, 7, 3}, MOEPLAN_FORMAT_BF16, 0},
                           {{64, 16, 16}, MOEPLAN_FORMAT_F32, 1},
                           // Every packed format; rows in tiles of 16 or all at once, columns that
                           // are no multiple of a block, of a group, or of either.
                           {{160, 16, 16}, MOEPLAN_FORMAT_INT8G32, 0},
                           {{200, 20, 32}, MOEPLAN_FORMAT_INT8G64, 1},
                           {{129, 33, 64}, MOEPLAN_FORMAT_INT8G128, 0},
                           {{192, 129, 32}, MOEPLAN_FORMAT_INT4G32, 0},
                           {{96, 17, 16}, MOEPLAN_FORMAT_INT4G64, 1},
                           {{7, 5, 5}, MOEPLAN_FORMAT_INT4G128, 0},
                           {{129, 33, 48}, MOEPLAN_FORMAT_INT3G32, 1},
                           {{320, 192, 16}, MOEPLAN_FORMAT_INT3G64, 0},
                           {{300, 33, 64}, MOEPLAN_FORMAT_INT3G128, 0},
                           {{33, 7, 7}, MOEPLAN_FORMAT_INT2G32, 0},
                           {{256, 40, 16}, MOEPLAN_FORMAT_INT2G64, 1},
                           {{130, 1, 1}, MOEPLAN_FORMAT_INT2G128, 0}};

class LinearKernelTest : public KernelTest {
protected:
  static Constants constants(Shape shape, int64_t format, int64_t accumulate, int64_t maxTokens,
                             int64_t logitsRows) {
    return {{"in_features", shape.in},  {"out_features", shape.out},
            {"weight_format", format},  {"rows_per_tile", shape.rowsPerTile},
            {"accumulate", accumulate}, {"max_tokens", maxTokens},
            {"logits_rows", logitsRows}};
  }

  /// Compares with the reference; y is as large as it must be and starts with random numbers.
  void check(const Kernel &kernel, Shape shape, moeplan_format format, int64_t accumulate,
             int64_t maxTokens, int64_t logitsRows, moeplan_step step) {
    RandomNumbers random(uint64_t(shape.in * 1000 + step.token_count));
    const Weights w(random, shape.out, shape.in, format);
    const auto x = random.floats(size_t(step.token_count * shape.in));
    const auto before = random.floats(size_t(step.token_count * shape.out));
    const uint64_t tiles = uint64_t((shape.out + shape.rowsPerTile - 1) / shape.rowsPerTile);
    std::vector<float> expected = before, actual = before;
    moeplan_cpu_linear_reference(&step, 0, tiles, x.data(), w.data(), expected.data(), shape.in,
                                 shape.out, format, shape.rowsPerTile, accumulate, maxTokens,
                                 logitsRows);
    auto bindings = [&](float *y) {
      return std::vector<void *>{const_cast<float *>(x.data()), const_cast<void *>(w.data()), y};
    };
    kernel.run(bindings(actual.data()), step, tiles);
    for (int64_t t = 0; t < step.token_count; ++t)
      for (int64_t n = 0; n < shape.out; ++n) {
        const size_t i = size_t(t * shape.out + n);
        if (logitsRows && t < step.logits_begin) {
          ASSERT_EQ(actual[i], before[i]) << "row " << t << " was not asked for";
          continue;
        }
        const double bound = dotBound(w, n, x.data() + t * shape.in) +
                             (accumulate ? 2 * kUnitRoundoff * std::abs(expected[i]) : 0);
        ASSERT_NEAR(actual[i], expected[i], bound)
            << shape.in << " x " << shape.out << ", token " << t << " of " << step.token_count
            << ", feature " << n;
      }
    expectPiecesGiveTheSameBytes<float>(before, [&](float *y, bool inPieces) {
      if (inPieces)
        kernel.runInPieces(bindings(y), step, tiles);
      else
        kernel.run(bindings(y), step, tiles);
    });
  }
};

TEST_P(LinearKernelTest, ManyTokensEqualTheReference) {
  std::vector<Constants> all;
  for (const auto &[shape, format, accumulate] : kCases)
    all.push_back(constants(shape, format, accumulate, 0, 0));
  const std::vector<Kernel> kernels = compile("linear", 3, all);
  size_t next = 0;
  for (const auto &[shape, format, accumulate] : kCases) {
    const Kernel &kernel = kernels[next++];
    for (uint32_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 33})
      check(kernel, shape, format, accumulate, 0, 0, {tokens, 0, 0, 0});
  }
}

TEST_P(LinearKernelTest, ASingleTokenEqualsTheReference) {
  std::vector<Constants> all;
  for (const auto &[shape, format, accumulate] : kCases)
    all.push_back(constants(shape, format, accumulate, 1, 0));
  const std::vector<Kernel> kernels = compile("linear", 3, all);
  size_t next = 0;
  for (const auto &[shape, format, accumulate] : kCases)
    check(kernels[next++], shape, format, accumulate, 1, 0, {1, 0, 0, 0});
}

TEST_P(LinearKernelTest, OnlyRequestedRowsOfLogitsAreTouched) {
  const Shape shape{192, 129, 32};
  const std::vector<Kernel> kernels = compile("linear", 3,
                                              {constants(shape, MOEPLAN_FORMAT_BF16, 0, 0, 1),
                                               constants(shape, MOEPLAN_FORMAT_BF16, 0, 1, 1)});
  for (uint32_t begin : {0, 1, 5, 8, 9})
    check(kernels[0], shape, MOEPLAN_FORMAT_BF16, 0, 0, 1, {9, begin, 0, 0});
  for (uint32_t begin : {0, 1})
    check(kernels[1], shape, MOEPLAN_FORMAT_BF16, 0, 1, 1, {1, begin, 0, 0});
}

TEST_P(LinearKernelTest, ATokensResultDoesNotDependOnItsNeighbours) {
  const Shape shape{129, 33, 64};
  for (moeplan_format format : {MOEPLAN_FORMAT_BF16, MOEPLAN_FORMAT_INT4G32}) {
    const std::vector<Kernel> kernels = compile(
        "linear", 3, {constants(shape, format, 0, 0, 0), constants(shape, format, 0, 1, 0)});
    RandomNumbers random(5);
    const Weights w(random, shape.out, shape.in, format);
    const auto x = random.floats(size_t(9 * shape.in));
    auto run = [&](const Kernel &kernel, uint32_t first, uint32_t count) {
      std::vector<float> y(size_t(count * shape.out));
      kernel.run({const_cast<float *>(x.data() + first * shape.in), const_cast<void *>(w.data()),
                  y.data()},
                 {count, 0, 0, 0}, 1);
      return y;
    };
    const std::vector<float> together = run(kernels[0], 0, 9);
    for (uint32_t t = 0; t < 9; ++t) {
      const std::vector<float> row(together.begin() + t * shape.out,
                                   together.begin() + (t + 1) * shape.out);
      EXPECT_EQ(run(kernels[0], t, 1), row) << "token " << t;
      EXPECT_EQ(run(kernels[1], t, 1), row) << "token " << t;
    }
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(LinearKernelTest);

} // namespace
} // namespace moeplan::testing
