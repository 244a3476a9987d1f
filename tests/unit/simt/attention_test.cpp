#include "tests/unit/simt/simt_test.h"

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

template <class C> void checkAttention(uint32_t tokens, uint64_t position, uint64_t capacity) {
  constexpr int64_t kDim = C::head_dim, kHeads = C::num_heads;
  RandomNumbers random(position + tokens);
  const std::vector<float> q = random.floats(tokens * kHeads * kDim);
  std::vector<uint16_t> keys = randomCache(random, C::num_kv_heads * capacity * kDim);
  std::vector<uint16_t> values = randomCache(random, keys.size());
  // What lies behind the last token is no number: nobody may use it.
  for (int64_t h = 0; h < C::num_kv_heads; ++h)
    for (size_t p = position + tokens; p < capacity; ++p)
      for (int64_t d = 0; d < kDim; ++d)
        keys[(h * capacity + p) * kDim + d] = values[(h * capacity + p) * kDim + d] = 0x7fc0;
  std::vector<float> partial(C::max_tokens * kHeads * C::splits * (kDim + 2), NAN);
  std::vector<float> out(q.size());
  const moeplan_step step{tokens, 0, position, capacity};
  std::vector<uint32_t> counters;
  for (const simt::Order order : {simt::Order::Forward, simt::Order::Backward}) {
    counters.assign(C::max_tokens * C::num_kv_heads + 1, 0);
    out.assign(q.size(), NAN);
    ASSERT_EQ(
        simt::run({{unsigned(C::num_kv_heads * C::splits), C::max_tokens, 1}, C::threads, order},
                  [&] {
                    attention<C>(&step, q.data(), keys.data(), values.data(), partial.data(),
                                 counters.data(), out.data());
                  }),
        "");
    for (uint32_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < kHeads; ++h) {
        const int64_t kvHead = h / (kHeads / C::num_kv_heads);
        const uint64_t end = position + t + 1;
        const uint64_t begin =
            C::sliding_window && end > C::sliding_window ? end - C::sliding_window : 0;
        double total = 0;
        std::vector<double> sum(kDim);
        for (uint64_t p = begin; p < end; ++p) {
          double logit = 0;
          for (int64_t d = 0; d < kDim; ++d)
            logit += double(q[(t * kHeads + h) * kDim + d]) *
                     fromCache(keys[(kvHead * capacity + p) * kDim + d]);
          const double weight = std::exp(logit / std::sqrt(double(kDim)));
          total += weight;
          for (int64_t d = 0; d < kDim; ++d)
            sum[d] += weight * fromCache(values[(kvHead * capacity + p) * kDim + d]);
        }
        // Weights are positive and values at most 1, logits at most 12.
        for (int64_t d = 0; d < kDim; ++d)
          ASSERT_NEAR(out[(t * kHeads + h) * kDim + d], sum[d] / total, 5e-6)
              << "token " << t << " head " << h << " element " << d;
      }
  }
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
  checkAttention<AttentionConstants<3, 3, 32, 1, 64>>(40, 0, 64);
}
TEST(SimtAttentionTest, PromptsSeeWhatLiesBeforeThem) {
  checkAttention<AttentionConstants<8, 2, 32, 1, 64>>(64, 20, 96);
}
TEST(SimtAttentionTest, ASlidingWindowEnds) {
  checkAttention<AttentionConstants<4, 2, 32, 4, 8, 20>>(8, 40, 64);
  checkAttention<AttentionConstants<4, 2, 32, 1, 64, 20>>(40, 0, 64);
}

} // namespace
} // namespace moeplan::testing
