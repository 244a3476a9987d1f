#include "tests/unit/simt/simt_test.h"

#include <algorithm>

namespace moeplan::testing {
namespace {

float fromCache(uint16_t value) { return __uint_as_float(uint32_t(value) << 16); }

std::vector<uint16_t> randomCache(RandomNumbers &random, size_t count) {
  std::vector<uint16_t> cache(count);
  for (uint16_t &value : cache)
    value = uint16_t(toBf16(random.next()));
  return cache;
}

template <int Heads, int KvHeads, int HeadDim, int Splits, int MaxTokens, int Window = 0>
struct AttentionConstants {
  static constexpr long long num_heads = Heads, num_kv_heads = KvHeads, head_dim = HeadDim,
                             sliding_window = Window, splits = Splits, max_tokens = MaxTokens,
                             threads = 128;
};

/// Queries, a cache, and what attention makes of them in float64.
template <class C> struct AttentionCase {
  static constexpr int64_t kDim = C::head_dim, kHeads = C::num_heads;

  AttentionCase(uint32_t tokens, uint64_t position, uint64_t capacity)
      : step{tokens, 0, position, capacity} {
    RandomNumbers random(position + tokens);
    q = random.floats(tokens * kHeads * kDim);
    keys = randomCache(random, C::num_kv_heads * capacity * kDim);
    values = randomCache(random, keys.size());
    // What lies behind the last token is no number: nobody may use it.
    for (int64_t h = 0; h < C::num_kv_heads; ++h)
      for (size_t p = position + tokens; p < capacity; ++p)
        for (int64_t d = 0; d < kDim; ++d)
          keys[(h * capacity + p) * kDim + d] = values[(h * capacity + p) * kDim + d] = 0x7fc0;
  }

  /// `at(token, column)` is what a kernel made, at most `bound` off. `query` gives an element of q
  /// as the kernel multiplies it.
  template <typename At, typename Query> void check(double bound, At &&at, Query &&query) const {
    for (uint32_t t = 0; t < step.token_count; ++t)
      for (int64_t h = 0; h < kHeads; ++h) {
        const int64_t kvHead = h / (kHeads / C::num_kv_heads);
        const uint64_t end = step.position + t + 1;
        const uint64_t begin =
            C::sliding_window && end > C::sliding_window ? end - C::sliding_window : 0;
        double total = 0;
        std::vector<double> sum(kDim);
        for (uint64_t p = begin; p < end; ++p) {
          double logit = 0;
          for (int64_t d = 0; d < kDim; ++d)
            logit += query(q[(t * kHeads + h) * kDim + d]) *
                     fromCache(keys[(kvHead * step.kv_capacity + p) * kDim + d]);
          const double weight = std::exp(logit / std::sqrt(double(kDim)));
          total += weight;
          for (int64_t d = 0; d < kDim; ++d)
            sum[d] += weight * fromCache(values[(kvHead * step.kv_capacity + p) * kDim + d]);
        }
        for (int64_t d = 0; d < kDim; ++d)
          ASSERT_NEAR(at(t, h * kDim + d), sum[d] / total, bound)
              << "token " << t << " head " << h << " element " << d;
      }
  }

  moeplan_step step;
  std::vector<float> q;
  std::vector<uint16_t> keys, values;
};

template <class C> void checkAttention(uint32_t tokens, uint64_t position, uint64_t capacity) {
  constexpr int64_t kDim = C::head_dim, kHeads = C::num_heads;
  AttentionCase<C> of(tokens, position, capacity);
  std::vector<float> partial(C::max_tokens * kHeads * C::splits * (kDim + 2), NAN);
  std::vector<float> out(of.q.size());
  std::vector<uint32_t> counters;
  for (const simt::Order order : {simt::Order::Forward, simt::Order::Backward}) {
    counters.assign(C::max_tokens * C::num_kv_heads + 1, 0);
    out.assign(of.q.size(), NAN);
    ASSERT_EQ(
        simt::run({{unsigned(C::num_kv_heads * C::splits), C::max_tokens, 1}, C::threads, order},
                  [&] {
                    attention<C>(&of.step, of.q.data(), of.keys.data(), of.values.data(),
                                 partial.data(), counters.data(), out.data());
                  }),
        "");
    // Weights are positive and values at most 1, logits at most 12.
    of.check(
        5e-6, [&](uint32_t t, int64_t i) { return out[t * kHeads * kDim + i]; },
        [](float x) { return double(x); });
  }
}

template <class C> void checkPrompt(uint32_t tokens, uint64_t position, uint64_t capacity) {
  constexpr int64_t kStride = C::num_heads * C::head_dim;
  const AttentionCase<C> of(tokens, position, capacity);
  const unsigned blocks =
      unsigned((C::max_tokens * (C::num_heads / C::num_kv_heads) + 63) / 64 * C::num_kv_heads);
  const uint16_t untouched = 0x1234;
  std::vector<uint16_t> out((tokens + 1) * kStride, untouched);
  runInEveryOrder(
      C::threads, blocks, 1,
      [&] {
        attention_prompt<C>(&of.step, of.q.data(), of.keys.data(), of.values.data(), out.data());
      },
      out);
  EXPECT_EQ(std::count(out.end() - kStride, out.end(), untouched), kStride);
  constexpr int kPlaces[4] = {0, 2, 1, 3};
  const float scale = float(1 / std::sqrt(double(C::head_dim)) * std::log2(std::exp(1.0)));
  // Weights and results are rounded to bf16.
  of.check(
      0x1p-8 + 1e-5,
      [&](uint32_t t, int64_t i) {
        return fromCache(out[t * kStride + i / 4 * 4 + kPlaces[i % 4]]);
      },
      [&](float x) { return roundedToBf16(x * scale) / scale; });
}

TEST(SimtAttentionTest, OneTokenInSplits) {
  for (const uint64_t position : {0, 1, 15, 130, 300})
    checkAttention<AttentionConstants<8, 2, 64, 16, 1>>(1, position, 320);
}
TEST(SimtAttentionTest, LargeHeads) {
  checkAttention<AttentionConstants<4, 1, 128, 4, 8>>(8, 50, 64);
  checkAttention<AttentionConstants<2, 2, 256, 4, 8>>(2, 3, 32);
}
TEST(SimtAttentionTest, HeadsThatAreNoPowerOfTwo) {
  checkAttention<AttentionConstants<6, 1, 96, 4, 8>>(5, 40, 64);
  checkAttention<AttentionConstants<3, 3, 32, 1, 8>>(8, 0, 64);
}
TEST(SimtAttentionTest, ASlidingWindowEnds) {
  checkAttention<AttentionConstants<4, 2, 32, 4, 8, 20>>(8, 40, 64);
  checkAttention<AttentionConstants<4, 2, 32, 1, 8, 20>>(8, 13, 64);
}

TEST(SimtAttentionPromptTest, SeesWhatLiesBeforeIt) {
  checkPrompt<AttentionConstants<8, 2, 32, 1, 64>>(64, 20, 96);
  checkPrompt<AttentionConstants<2, 1, 64, 1, 130>>(130, 129, 288);
  checkPrompt<AttentionConstants<4, 2, 128, 1, 64>>(33, 0, 64);
  checkPrompt<AttentionConstants<4, 2, 128, 1, 64>>(1, 63, 64);
}
TEST(SimtAttentionPromptTest, GroupsOfAnySize) {
  checkPrompt<AttentionConstants<3, 3, 32, 1, 64>>(40, 0, 64);
  checkPrompt<AttentionConstants<6, 2, 96, 1, 64>>(50, 5, 64);
  checkPrompt<AttentionConstants<8, 1, 256, 1, 16>>(9, 30, 64);
}
TEST(SimtAttentionPromptTest, ASlidingWindowEnds) {
  checkPrompt<AttentionConstants<4, 2, 32, 1, 64, 20>>(40, 0, 64);
  checkPrompt<AttentionConstants<4, 1, 64, 1, 100, 70>>(100, 150, 256);
  checkPrompt<AttentionConstants<2, 1, 128, 1, 64, 3>>(64, 17, 96);
  // Where it begins for the last row of a block is a tile behind where it does for the first.
  checkPrompt<AttentionConstants<2, 2, 128, 1, 64, 40>>(64, 100, 192);
}

} // namespace
} // namespace moeplan::testing
