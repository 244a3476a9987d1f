#include "tests/unit/codegen/kernel_test.h"

#include <cmath>

namespace moeplan::testing {
namespace {

struct Shape {
  int64_t heads, kvHeads, headDim;
};

constexpr Shape kShapes[] = {{6, 3, 32}, {4, 1, 24}, {2, 2, 10}, {3, 1, 128}};
constexpr moeplan_format kFormats[] = {MOEPLAN_FORMAT_F32, MOEPLAN_FORMAT_BF16};

/// What an attention kernel is specialised for besides.
struct Case {
  Shape shape;
  moeplan_format format;
  int64_t window;
};
constexpr Case kCases[] = {
    {kShapes[0], MOEPLAN_FORMAT_F32, 0},  {kShapes[0], MOEPLAN_FORMAT_BF16, 5},
    {kShapes[1], MOEPLAN_FORMAT_BF16, 0}, {kShapes[1], MOEPLAN_FORMAT_F32, 70},
    {kShapes[2], MOEPLAN_FORMAT_F32, 5},  {kShapes[2], MOEPLAN_FORMAT_BF16, 70},
    {kShapes[3], MOEPLAN_FORMAT_BF16, 0}};

class AttentionKernelTest : public KernelTest {};

TEST_P(AttentionKernelTest, RopeTableEqualsTheReferenceAtAnyPosition) {
  const int64_t dims[] = {2, 10, 24, 32, 128};
  const double thetas[] = {1e4, 1e6};
  std::vector<Constants> all;
  for (int64_t dim : dims)
    for (double theta : thetas)
      all.push_back({{"head_dim", dim}, {"log_theta", std::log(theta)}});
  const std::vector<Kernel> kernels = compile("rope_table", 1, all);
  size_t next = 0;
  for (int64_t dim : dims)
    for (double theta : thetas) {
      const Kernel &kernel = kernels[next++];
      for (uint64_t position : {0, 1, 2, 63, 1000, 4095, 32767, 99991}) {
        const uint32_t count = 9;
        const moeplan_step step{count, 0, position, 0};
        std::vector<float> expected(size_t(count * dim)), actual(expected.size());
        moeplan_cpu_rope_table_reference(&step, 0, count, expected.data(), dim, std::log(theta));
        kernel.runInPieces({actual.data()}, step, count);
        // Both round a double once; the doubles differ by 1e-16 of 1.
        for (size_t i = 0; i < actual.size(); ++i)
          ASSERT_NEAR(actual[i], expected[i], 2 * kUnitRoundoff)
              << "head_dim " << dim << ", position " << position << ", element " << i;
      }
    }
}

TEST_P(AttentionKernelTest, RopeAppendEqualsTheReference) {
  std::vector<Constants> all;
  for (Shape shape : kShapes)
    for (int64_t format : kFormats)
      all.push_back({{"num_heads", shape.heads},
                     {"num_kv_heads", shape.kvHeads},
                     {"head_dim", shape.headDim},
                     {"kv_format", format}});
  const std::vector<Kernel> kernels = compile("rope_append", 6, all);
  size_t next = 0;
  RandomNumbers random(4);
  for (Shape shape : kShapes)
    for (moeplan_format format : kFormats) {
      const Kernel &kernel = kernels[next++];
      const uint32_t count = 9;
      const moeplan_step step{count, 0, 5, 20};
      const auto q = random.floats(size_t(count * shape.heads * shape.headDim));
      auto k = random.floats(size_t(count * shape.kvHeads * shape.headDim));
      auto v = random.floats(k.size());
      std::vector<float> rope(size_t(count * shape.headDim));
      moeplan_cpu_rope_table_reference(&step, 0, count, rope.data(), shape.headDim, std::log(1e4));
      // What is in the caches before must stay where no token goes.
      const Weights cache(random, shape.kvHeads * 20, shape.headDim, format);
      Weights expectedKeys = cache, keys = cache, expectedValues = cache, values = cache;
      std::vector<float> expected = q, actual = q;
      moeplan_cpu_rope_append_reference(&step, 0, count, expected.data(), k.data(), v.data(),
                                        rope.data(), expectedKeys.bytes.data(),
                                        expectedValues.bytes.data(), shape.heads, shape.kvHeads,
                                        shape.headDim, format);
      kernel.runInPieces(
          {actual.data(), k.data(), v.data(), rope.data(), keys.bytes.data(), values.bytes.data()},
          step, count);
      // Two products of numbers below 1 and a sum: three roundings of at most 1.
      for (size_t i = 0; i < actual.size(); ++i)
        ASSERT_NEAR(actual[i], expected[i], 4 * kUnitRoundoff);
      EXPECT_EQ(values.bytes, expectedValues.bytes);
      // A float32 error may tip the rounding to bf16, by one unit in its last place.
      const double step16 = format == MOEPLAN_FORMAT_BF16 ? 0x1p-7 : 0;
      size_t tipped = 0;
      for (int64_t row = 0; row < keys.rows; ++row)
        for (int64_t i = 0; i < keys.columns; ++i) {
          const double reference = expectedKeys.at(row, i);
          ASSERT_NEAR(keys.at(row, i), reference, 4 * kUnitRoundoff + step16 * std::abs(reference));
          tipped += format == MOEPLAN_FORMAT_BF16 && keys.at(row, i) != reference;
        }
      EXPECT_LE(tipped, keys.bytes.size() / 2 / 100);
    }
}

TEST_P(AttentionKernelTest, AttentionEqualsTheReference) {
  std::vector<Constants> all;
  for (const auto &[shape, format, window] : kCases)
    all.push_back({{"num_heads", shape.heads},
                   {"num_kv_heads", shape.kvHeads},
                   {"head_dim", shape.headDim},
                   {"kv_format", int64_t(format)},
                   {"sliding_window", window}});
  const std::vector<Kernel> kernels = compile("attention", 4, all);
  size_t next = 0;
  RandomNumbers random(5);
  for (const auto &[shape, format, window] : kCases) {
    const Kernel &kernel = kernels[next++];
    // From the first position on; across a block of keys; two blocks and a rest behind.
    for (auto [position, count] : {std::pair<uint64_t, uint32_t>{0, 9}, {60, 9}, {200, 1}}) {
      const moeplan_step step{count, 0, position, position + count + 3};
      auto q = random.floats(size_t(count * shape.heads * shape.headDim));
      for (float &value : q)
        value *= 4; // so that some positions matter more than others
      const auto rows = int64_t(step.kv_capacity) * shape.kvHeads;
      Weights keys(random, rows, shape.headDim, format);
      Weights values(random, rows, shape.headDim, format);
      const uint64_t tiles = uint64_t(count * shape.heads);
      std::vector<float> expected(q.size()), actual(q.size());
      moeplan_cpu_attention_reference(&step, 0, tiles, q.data(), keys.data(), values.data(),
                                      expected.data(), shape.heads, shape.kvHeads, shape.headDim,
                                      format, window);
      std::vector<void *> bindings{q.data(), keys.bytes.data(), values.bytes.data(), actual.data()};
      kernel.run(bindings, step, tiles);
      // A score's error changes its weight by that much relative; e^x adds a few roundings.
      // Weights sum to 1 and |v| < 1, so that these are errors of the sums, where numerator and
      // denominator each add a rounding per position.
      double scoreBound = 0;
      for (uint64_t tile = 0; tile < tiles; ++tile)
        for (int64_t row = 0; row < rows; ++row)
          scoreBound =
              std::max(scoreBound, dotBound(keys, row, q.data() + tile * uint64_t(shape.headDim)));
      scoreBound /= std::sqrt(double(shape.headDim));
      const double positions = double(position + count);
      const double bound = 2 * scoreBound + (2 * positions + 24) * kUnitRoundoff;
      for (size_t i = 0; i < actual.size(); ++i)
        ASSERT_NEAR(actual[i], expected[i], bound)
            << shape.heads << " heads of " << shape.headDim << ", window " << window
            << ", position " << position << ", element " << i;
      bindings.back() = expected.data();
      kernel.runInPieces(bindings, step, tiles);
      EXPECT_EQ(actual, expected) << "in pieces";
    }
  }
}

TEST_P(AttentionKernelTest, ScoresFarApartDoNotOverflow) {
  const Kernel kernel = compileOne("attention", 4,
                                   {{"num_heads", int64_t(1)},
                                    {"num_kv_heads", int64_t(1)},
                                    {"head_dim", int64_t(2)},
                                    {"kv_format", int64_t(MOEPLAN_FORMAT_F32)},
                                    {"sliding_window", int64_t(0)}});
  // The last of 100 positions has by far the largest score, then the first.
  for (size_t winner : {size_t(99), size_t(0)}) {
    std::vector<float> q{1e4f, 0}, keys(200), values(200, 1.0f), out(2);
    keys[2 * winner] = 1e4f;
    values[2 * winner] = 3;
    kernel.run({q.data(), keys.data(), values.data(), out.data()}, {1, 0, 99, 100}, 1);
    EXPECT_EQ(out, (std::vector<float>{3, 1}));
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(AttentionKernelTest);

} // namespace
} // namespace moeplan::testing
