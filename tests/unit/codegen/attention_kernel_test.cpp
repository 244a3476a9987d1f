#include "tests/unit/codegen/kernel_test.h"

#include "cpu/kv_reference.h"
#include "kv_formats.h"

#include <cmath>
#include <limits>

namespace moeplan::testing {
namespace {

struct Shape {
  int64_t heads, kvHeads, headDim;

  size_t queryFloats(uint32_t tokens) const { return size_t(tokens * heads * headDim); }
  size_t keyFloats(uint32_t tokens) const { return size_t(tokens * kvHeads * headDim); }
};

/// Groups of 1 to 4 query heads; head sizes that are no multiple of a vector, of 4, of 16.
struct Case {
  Shape shape;
  moeplan_kv_format format;
  int64_t window, logitsRows;
  int64_t fewTokens; ///< per tile, beside kManyTokens; on the host
};
constexpr int64_t kManyTokens = 16;
constexpr Case kCases[] = {
    {{6, 3, 32}, MOEPLAN_KV_F32, 0, 0, 1},    {{2, 2, 10}, MOEPLAN_KV_F32, 70, 1, 3},
    {{4, 1, 24}, MOEPLAN_KV_BF16, 0, 1, 3},   {{2, 2, 10}, MOEPLAN_KV_BF16, 5, 0, 1},
    {{3, 1, 128}, MOEPLAN_KV_BF16, 70, 0, 3}, {{4, 1, 24}, MOEPLAN_KV_INT8, 70, 1, 1},
    {{3, 1, 10}, MOEPLAN_KV_INT8, 0, 0, 3}};
/// Where a prompt begins and how many tokens it has: at the first position; across a block of 64
/// keys; within one, with several behind it; a tile of tokens and more.
constexpr std::pair<uint64_t, uint32_t> kPrompts[] = {{0, 9}, {60, 9}, {200, 1}, {131, 20}};

std::string describe(const Case &c) {
  return std::string(findKvFormat(uint32_t(c.format))->name) + " cache, " +
         std::to_string(c.shape.heads) + " heads of " + std::to_string(c.shape.headDim) +
         ", window " + std::to_string(c.window);
}

moeplan_step stepAt(uint64_t position, uint32_t tokens, uint32_t logitsBegin = 0) {
  return {tokens, logitsBegin, position, kvCapacity(position + tokens + 3)};
}

/// The keys or the values of a layer.
struct Cache {
  /// What no kernel may read is NaN; the padding of a head is zero, as the runtime's fresh memory.
  Cache(const Case &c, bool isValue, const moeplan_step &step)
      : shape(c.shape), format(c.format), isValue(isValue), step(step),
        bytes(*kvLayerBytes(c.format, step.kv_capacity, uint32_t(shape.kvHeads),
                            uint32_t(shape.headDim)),
              char(0xff)) {
    if (format != MOEPLAN_KV_BF16)
      return;
    for (int64_t head = 0; head < shape.kvHeads; ++head)
      for (uint64_t position = 0; position < step.kv_capacity; ++position)
        for (int64_t i = shape.headDim; i < (shape.headDim + 15) / 16 * 16; ++i)
          std::memset(at(head, position, i), 0, 2);
  }

  int64_t width() const { return format == MOEPLAN_KV_F32 ? 4 : format == MOEPLAN_KV_BF16 ? 2 : 1; }
  char *at(int64_t head, uint64_t position, int64_t i) {
    return bytes.data() +
           reference_kv_byte(isValue, head, int64_t(position), i, shape.headDim, &step, format);
  }
  float load(int64_t head, uint64_t position, int64_t i) const {
    return reference_kv_load(bytes.data(), isValue, head, int64_t(position), i, shape.headDim,
                             &step, format);
  }
  /// Random numbers for positions 0 .. count - 1.
  void fill(RandomNumbers &random, uint64_t count) {
    for (int64_t head = 0; head < shape.kvHeads; ++head)
      for (uint64_t position = 0; position < count; ++position)
        reference_kv_store(bytes.data(), isValue, head, int64_t(position),
                           random.floats(size_t(shape.headDim)).data(), shape.headDim, &step,
                           format);
    clearBehind(count);
  }
  /// Positions from `position` on, up to a multiple of 4, are zero in the values of a BF16 cache.
  void clearBehind(uint64_t position) {
    for (; isValue && format == MOEPLAN_KV_BF16 && position % 4; ++position)
      for (int64_t head = 0; head < shape.kvHeads; ++head)
        for (int64_t i = 0; i < shape.headDim; ++i)
          std::memset(at(head, position, i), 0, 2);
  }
  /// Takes over the bytes of a position from `other`.
  void copyPosition(Cache &other, uint64_t position) {
    for (int64_t head = 0; head < shape.kvHeads; ++head) {
      for (int64_t i = 0; i < shape.headDim; ++i)
        std::memcpy(at(head, position, i), other.at(head, position, i), size_t(width()));
      const int64_t scale = (shape.headDim + 3) / 4 * 4;
      if (format == MOEPLAN_KV_INT8)
        std::memcpy(at(head, position, scale), other.at(head, position, scale), sizeof(float));
    }
  }
  /// Whether x [kvHeads][headDim], each with an error of at most `error`, is what a position holds.
  ::testing::AssertionResult holds(uint64_t position, const float *x, double error) {
    for (int64_t head = 0; head < shape.kvHeads; ++head, x += shape.headDim) {
      double half = 0; // the largest rounding, relative for BF16
      if (format == MOEPLAN_KV_BF16)
        half = 0x1p-8;
      if (format == MOEPLAN_KV_INT8) {
        double maximum = 0;
        for (int64_t i = 0; i < shape.headDim; ++i)
          maximum = std::max(maximum, std::abs(double(x[i])));
        float scale = 0;
        std::memcpy(&scale, at(head, position, (shape.headDim + 3) / 4 * 4), sizeof(scale));
        if (!(std::abs(scale - maximum / 127) <= maximum / 127 * 0x1p-23 + error))
          return ::testing::AssertionFailure() << "scale " << scale << " of " << maximum;
        half = scale * (0.5 + 1e-4);
      }
      for (int64_t i = 0; i < shape.headDim; ++i) {
        const double size = format == MOEPLAN_KV_BF16 ? std::abs(double(x[i])) : 1;
        if (!(std::abs(load(head, position, i) - double(x[i])) <= half * size + error))
          return ::testing::AssertionFailure()
                 << "head " << head << ", position " << position << ", element " << i << ": "
                 << load(head, position, i) << " for " << x[i];
      }
    }
    return ::testing::AssertionSuccess();
  }

  Shape shape;
  moeplan_kv_format format;
  bool isValue;
  moeplan_step step;
  std::vector<char> bytes;
};

/// The inputs of a prompt and the caches before it.
struct Prompt {
  Prompt(const Case &c, const moeplan_step &step, uint64_t seed)
      : random(seed), step(step), q(random.floats(c.shape.queryFloats(step.token_count))),
        k(random.floats(c.shape.keyFloats(step.token_count))), v(random.floats(k.size())),
        rope(size_t(step.token_count * c.shape.headDim)), keys(c, false, step),
        values(c, true, step) {
    for (float &value : q)
      value *= 4; // so that some positions matter more than others
    moeplan_cpu_rope_table_reference(&step, 0, step.token_count, rope.data(), c.shape.headDim,
                                     std::log(1e4));
    keys.fill(random, step.position);
    values.fill(random, step.position);
  }

  RandomNumbers random;
  moeplan_step step;
  std::vector<float> q, k, v, rope;
  Cache keys, values;
};

/// Two products of numbers of `size` at most and a sum, three roundings.
double rotationBound(double size) { return 4 * kUnitRoundoff * size; }

class AttentionKernelTest : public KernelTest {
protected:
  static Constants heads(const Case &c) {
    return {{"num_heads", c.shape.heads},
            {"num_kv_heads", c.shape.kvHeads},
            {"head_dim", c.shape.headDim},
            {"kv_format", int64_t(c.format)}};
  }
  std::vector<Kernel> compileAppend() {
    std::vector<Constants> all;
    for (const Case &c : kCases)
      all.push_back(heads(c));
    return compile("rope_append", 6, all);
  }
  std::vector<Kernel> compileVector() {
    std::vector<Constants> all;
    for (const Case &c : kCases) {
      all.push_back(heads(c));
      all.back().emplace_back("sliding_window", c.window);
      all.back().emplace_back("logits_rows", c.logitsRows);
    }
    return compile("vector_attention", 7, all);
  }
  static Constants attention(const Case &c, int64_t tokensPerTile) {
    Constants constants = heads(c);
    constants.emplace_back("sliding_window", c.window);
    constants.emplace_back("tokens_per_tile", tokensPerTile);
    constants.emplace_back("logits_rows", c.logitsRows);
    return constants;
  }
  std::vector<Kernel> compileAttention(bool many) {
    std::vector<Constants> all;
    for (const Case &c : kCases)
      all.push_back(attention(c, many ? kManyTokens : c.fewTokens));
    return compile("attention", 4, all);
  }
  static uint64_t tilesOf(const Case &c, const moeplan_step &step, int64_t tokensPerTile) {
    return uint64_t((step.token_count + tokensPerTile - 1) / tokensPerTile * c.shape.kvHeads);
  }

  /// Bound on the error of attention's results, values being below 1 and queries in error by
  /// `queryError`.
  double bound(const Case &c, const std::vector<float> &q, const Cache &keys,
               double queryError) const {
    const Shape &shape = c.shape;
    const bool isBf16 = c.format == MOEPLAN_KV_BF16;
    // Pairs round twice, for the upper and for the lower half of a query; see dotBound().
    const double roundings = isBf16 ? 2 * double(shape.headDim) + 4 : floatRoundings(shape.headDim);
    const double relative = (roundings + 5) * kUnitRoundoff + (isBf16 ? kSplitRoundoff : 0);
    const uint64_t end = keys.step.position + keys.step.token_count;
    double error = 0;
    for (int64_t t = 0; t < int64_t(keys.step.token_count); ++t)
      for (int64_t head = 0; head < shape.heads; ++head)
        for (uint64_t position = 0; position < end; ++position) {
          double sizes = 0, keySizes = 0;
          for (int64_t i = 0; i < shape.headDim; ++i) {
            const double key =
                std::abs(keys.load(head / (shape.heads / shape.kvHeads), position, i));
            sizes += key * std::abs(q[size_t((t * shape.heads + head) * shape.headDim + i)]);
            keySizes += key;
          }
          error = std::max(error, relative * sizes + queryError * keySizes);
        }
    // A score's error changes its weight by that much relative; e^x adds a few roundings. Weights
    // sum to 1 and |v| < 1, so that these are errors of the sums, where numerator and denominator
    // each add a rounding or two per position.
    return 2 * error / std::sqrt(double(shape.headDim)) + (3 * double(end) + 24) * kUnitRoundoff +
           (isBf16 ? kSplitRoundoff : 0);
  }
};

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

TEST_P(AttentionKernelTest, RopeAppendWritesTheTokensPositionsAndNoOthers) {
  const std::vector<Kernel> kernels = compileAppend();
  for (size_t n = 0; n < std::size(kCases); ++n) {
    const Case &c = kCases[n];
    for (uint32_t count : {9, 1, 3}) {
      const moeplan_step step = stepAt(5, count);
      Prompt prompt(c, step, n);
      std::vector<float> q = prompt.q, expected = prompt.q, rotatedKeys = prompt.k;
      Cache keys = prompt.keys, values = prompt.values;
      kernels[n].runInPieces({q.data(), prompt.k.data(), prompt.v.data(), prompt.rope.data(),
                              keys.bytes.data(), values.bytes.data()},
                             step, count);
      // The reference rotates k as if it were q, into a cache that is not looked at.
      Cache ignored = prompt.keys;
      moeplan_cpu_rope_append_reference(&step, 0, count, expected.data(), prompt.k.data(),
                                        prompt.v.data(), prompt.rope.data(), ignored.bytes.data(),
                                        ignored.bytes.data(), c.shape.heads, c.shape.kvHeads,
                                        c.shape.headDim, c.format);
      moeplan_cpu_rope_append_reference(&step, 0, count, rotatedKeys.data(), prompt.k.data(),
                                        prompt.v.data(), prompt.rope.data(), ignored.bytes.data(),
                                        ignored.bytes.data(), c.shape.kvHeads, c.shape.kvHeads,
                                        c.shape.headDim, c.format);
      for (size_t i = 0; i < q.size(); ++i)
        ASSERT_NEAR(q[i], expected[i], rotationBound(4)) << describe(c);
      Cache restKeys = prompt.keys, restValues = prompt.values;
      for (uint32_t t = 0; t < count; ++t) {
        const size_t row = c.shape.keyFloats(t);
        EXPECT_TRUE(keys.holds(5 + t, rotatedKeys.data() + row, rotationBound(1))) << describe(c);
        EXPECT_TRUE(values.holds(5 + t, prompt.v.data() + row, 0)) << describe(c);
        restKeys.copyPosition(keys, 5 + t);
        restValues.copyPosition(values, 5 + t);
      }
      restValues.clearBehind(5 + count);
      EXPECT_EQ(keys.bytes, restKeys.bytes) << describe(c) << ", " << count << " tokens";
      EXPECT_EQ(values.bytes, restValues.bytes) << describe(c) << ", " << count << " tokens";
    }
  }
}

TEST_P(AttentionKernelTest, AttentionEqualsTheReference) {
  const std::vector<Kernel> kernels = compileAttention(true);
  for (size_t n = 0; n < std::size(kCases); ++n) {
    const Case &c = kCases[n];
    for (auto [position, count] : kPrompts) {
      const moeplan_step step = stepAt(position, count);
      Prompt prompt(c, step, 100 + n);
      prompt.keys.fill(prompt.random, position + count);
      prompt.values.fill(prompt.random, position + count);
      const uint64_t tiles = tilesOf(c, step, kManyTokens);
      std::vector<float> expected(prompt.q.size()), actual(expected.size());
      moeplan_cpu_attention_reference(&step, 0, tiles, prompt.q.data(), prompt.keys.bytes.data(),
                                      prompt.values.bytes.data(), expected.data(), c.shape.heads,
                                      c.shape.kvHeads, c.shape.headDim, c.format, c.window,
                                      kManyTokens, 0);
      kernels[n].run(
          {prompt.q.data(), prompt.keys.bytes.data(), prompt.values.bytes.data(), actual.data()},
          step, tiles);
      const double error = bound(c, prompt.q, prompt.keys, 0);
      for (size_t i = 0; i < actual.size(); ++i)
        ASSERT_NEAR(actual[i], expected[i], error)
            << describe(c) << ", position " << position << ", element " << i;
    }
  }
}

TEST_P(AttentionKernelTest, ATokensResultDependsNeitherOnItsNeighboursNorOnTheTiles) {
  const std::vector<Kernel> append = compileAppend(), single = compileVector();
  const std::vector<Kernel> many = compileAttention(true),
                            few = isHost() ? compileAttention(false) : many;
  for (size_t n = 0; n < std::size(kCases); ++n) {
    const Case &c = kCases[n];
    for (auto [position, count] : kPrompts) {
      const moeplan_step step = stepAt(position, count);
      Prompt prompt(c, step, 200 + n);
      // One by one.
      std::vector<float> expected(prompt.q.size());
      Cache keys = prompt.keys, values = prompt.values;
      for (uint32_t t = 0; t < count; ++t) {
        const moeplan_step one{1, 0, position + t, step.kv_capacity};
        single[n].runInPieces(
            {prompt.q.data() + c.shape.queryFloats(t), prompt.k.data() + c.shape.keyFloats(t),
             prompt.v.data() + c.shape.keyFloats(t), prompt.rope.data() + t * c.shape.headDim,
             keys.bytes.data(), values.bytes.data(), expected.data() + c.shape.queryFloats(t)},
            one, uint64_t(c.shape.kvHeads));
      }
      // Together.
      std::vector<float> q = prompt.q;
      append[n].run({q.data(), prompt.k.data(), prompt.v.data(), prompt.rope.data(),
                     prompt.keys.bytes.data(), prompt.values.bytes.data()},
                    step, count);
      EXPECT_EQ(prompt.keys.bytes, keys.bytes) << describe(c);
      EXPECT_EQ(prompt.values.bytes, values.bytes) << describe(c);
      for (auto [kernel, tokensPerTile] :
           {std::pair(&few[n], isHost() ? c.fewTokens : kManyTokens), {&many[n], kManyTokens}})
        for (uint32_t begin : {0u, count / 2, count}) {
          const uint32_t first = c.logitsRows ? begin : 0;
          const moeplan_step wanted{count, begin, position, step.kv_capacity};
          std::vector<float> rows = expected, actual(q.size(), -7.0f);
          std::fill_n(rows.begin(), c.shape.queryFloats(first), -7.0f);
          kernel->runInPieces(
              {q.data(), prompt.keys.bytes.data(), prompt.values.bytes.data(), actual.data()},
              wanted, tilesOf(c, step, tokensPerTile));
          EXPECT_EQ(actual, rows) << describe(c) << ", position " << position << ", rows from "
                                  << begin << ", tiles of " << tokensPerTile;
        }
    }
  }
}

TEST_P(AttentionKernelTest, ASingleTokenEqualsTheReference) {
  const std::vector<Kernel> kernels = compileVector();
  for (size_t n = 0; n < std::size(kCases); ++n) {
    const Case &c = kCases[n];
    for (uint64_t position : {0, 1, 2, 3, 63, 64, 65, 200}) {
      const moeplan_step step = stepAt(position, 1);
      const Prompt prompt(c, step, 300 + n);
      Cache keys = prompt.keys, values = prompt.values;
      std::vector<float> actual(prompt.q.size());
      kernels[n].run({prompt.q.data(), prompt.k.data(), prompt.v.data(), prompt.rope.data(),
                      keys.bytes.data(), values.bytes.data(), actual.data()},
                     step, uint64_t(c.shape.kvHeads));
      // The reference reads the kernel's own cache: a code that is rounded the other way is no
      // error of attention.
      std::vector<float> q = prompt.q, expected(q.size());
      Cache referenceKeys = prompt.keys, referenceValues = prompt.values;
      moeplan_cpu_rope_append_reference(&step, 0, 1, q.data(), prompt.k.data(), prompt.v.data(),
                                        prompt.rope.data(), referenceKeys.bytes.data(),
                                        referenceValues.bytes.data(), c.shape.heads,
                                        c.shape.kvHeads, c.shape.headDim, c.format);
      moeplan_cpu_attention_reference(&step, 0, uint64_t(c.shape.kvHeads), q.data(),
                                      keys.bytes.data(), values.bytes.data(), expected.data(),
                                      c.shape.heads, c.shape.kvHeads, c.shape.headDim, c.format,
                                      c.window, 1, 0);
      const double error = bound(c, q, keys, rotationBound(4));
      for (size_t i = 0; i < actual.size(); ++i)
        ASSERT_NEAR(actual[i], expected[i], error)
            << describe(c) << ", position " << position << ", element " << i;
      // The fused reference is the two of which it is made.
      std::vector<float> fused(q.size());
      Cache fusedKeys = prompt.keys, fusedValues = prompt.values;
      moeplan_cpu_vector_attention_reference(
          &step, 0, uint64_t(c.shape.kvHeads), prompt.q.data(), prompt.k.data(), prompt.v.data(),
          prompt.rope.data(), fusedKeys.bytes.data(), fusedValues.bytes.data(), fused.data(),
          c.shape.heads, c.shape.kvHeads, c.shape.headDim, c.format, c.window, 0);
      EXPECT_EQ(fusedKeys.bytes, referenceKeys.bytes);
      EXPECT_EQ(fusedValues.bytes, referenceValues.bytes);
      if (!c.logitsRows)
        continue;
      // Without logits the caches are filled all the same.
      const moeplan_step silent{1, 1, position, step.kv_capacity};
      Cache silentKeys = prompt.keys, silentValues = prompt.values;
      std::vector<float> untouched(q.size(), -7.0f), before = untouched;
      kernels[n].run({prompt.q.data(), prompt.k.data(), prompt.v.data(), prompt.rope.data(),
                      silentKeys.bytes.data(), silentValues.bytes.data(), untouched.data()},
                     silent, uint64_t(c.shape.kvHeads));
      EXPECT_EQ(silentKeys.bytes, keys.bytes);
      EXPECT_EQ(silentValues.bytes, values.bytes);
      EXPECT_EQ(untouched, before);
    }
  }
}

TEST_P(AttentionKernelTest, ScoresFarApartDoNotOverflow) {
  const Case cases[] = {{{1, 1, 2}, MOEPLAN_KV_F32, 0, 0, 1},
                        {{1, 1, 2}, MOEPLAN_KV_BF16, 0, 0, 1},
                        {{1, 1, 2}, MOEPLAN_KV_INT8, 0, 0, 1}};
  std::vector<Constants> all;
  for (const Case &c : cases)
    all.push_back(attention(c, 1));
  const std::vector<Kernel> kernels = compile("attention", 4, all);
  for (size_t n = 0; n < std::size(cases); ++n) {
    const Case &c = cases[n];
    const moeplan_step step = stepAt(99, 1);
    // The last of 100 positions has by far the largest score, then the first.
    for (uint64_t winner : {99, 0}) {
      Cache keys(c, false, step), values(c, true, step);
      for (uint64_t position = 0; position < 100; ++position) {
        const float key[] = {position == winner ? 8192.0f : 0.0f, 0};
        const float value[] = {position == winner ? 3.0f : 1.0f, 1};
        reference_kv_store(keys.bytes.data(), 0, 0, int64_t(position), key, 2, &step, c.format);
        reference_kv_store(values.bytes.data(), 1, 0, int64_t(position), value, 2, &step, c.format);
      }
      const std::vector<float> q{8192.0f, 0};
      std::vector<float> out(2);
      kernels[n].run({q.data(), keys.bytes.data(), values.bytes.data(), out.data()}, step, 1);
      EXPECT_FLOAT_EQ(out[0], 3) << describe(c);
      EXPECT_NEAR(out[1], 1, c.format == MOEPLAN_KV_INT8 ? 0.5 * 3 / 127 : 0) << describe(c);
    }
  }
}

TEST_P(AttentionKernelTest, WhatIsNotFiniteIsNotLostInTheCache) {
  const std::vector<Kernel> kernels = compileVector();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (size_t n = 0; n < std::size(kCases); ++n) {
    const Case &c = kCases[n];
    const moeplan_step step = stepAt(3, 1);
    // An infinite key may well have no weight.
    for (auto [bad, inKey] :
         {std::pair(kNan, true), {kNan, false}, {kInfinity, false}, {-kInfinity, false}})
      for (int64_t at : {int64_t(0), c.shape.headDim - 1}) {
        Prompt prompt(c, step, 400 + n);
        (inKey ? prompt.k : prompt.v)[size_t(at)] = bad;
        std::vector<float> out(prompt.q.size());
        kernels[n].run({prompt.q.data(), prompt.k.data(), prompt.v.data(), prompt.rope.data(),
                        prompt.keys.bytes.data(), prompt.values.bytes.data(), out.data()},
                       step, uint64_t(c.shape.kvHeads));
        EXPECT_FALSE(std::isfinite(out[size_t(at)]))
            << describe(c) << ": " << bad << (inKey ? " in a key" : " in a value");
      }
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(AttentionKernelTest);

} // namespace
} // namespace moeplan::testing
