#include "tests/unit/simt/simt_test.h"

#include <algorithm>

namespace moeplan::testing {
namespace {

float fromCache(uint16_t value) { return __uint_as_float(uint32_t(value) << 16); }

template <int Format, int Features, int Heads, int KvHeads, int HeadDim, int MaxTokens>
struct QkvConstants {
  static constexpr long long in_features = Features, num_heads = Heads, num_kv_heads = KvHeads,
                             head_dim = HeadDim, normalize = 1, weight_format = Format,
                             max_tokens = MaxTokens, tile_tokens = 32, threads = 128;
  static constexpr double epsilon = kEpsilon, log_theta = 13.815510557964274;
};

template <class C> struct Decode {
  static constexpr unsigned kBlocks =
      unsigned((C::num_heads + 2 * C::num_kv_heads) * C::head_dim / 32);
  Decode(RandomNumbers &random, uint32_t tokens)
      : x(random.floats(tokens * C::in_features)), scale(random.floats(C::in_features)) {}

  template <typename... Bindings> void run(const moeplan_step *step, Bindings... bindings) const {
    qkv<C>(step, x.data(), scale.data(), bindings...);
  }
  double product(const Weights &w, int64_t row, uint32_t token, double &magnitude) const {
    const float *of = x.data() + token * C::in_features;
    const double factor = normFactor(of, C::in_features, kEpsilon);
    const double sum = dotProduct(w, row, of, scale.data(), magnitude);
    magnitude *= factor;
    return factor * sum;
  }
  std::vector<float> x, scale;
};

template <class C> struct Prompt {
  static constexpr int64_t kParts = (C::num_heads + 2 * C::num_kv_heads) * C::head_dim / 32;
  static constexpr unsigned kBlocks =
      unsigned((kParts + C::threads / 32 - 1) / (C::threads / 32) *
               ((C::max_tokens + C::tile_tokens - 1) / C::tile_tokens));
  Prompt(RandomNumbers &random, uint32_t tokens) : x(random, tokens, C::in_features) {}

  template <typename... Bindings> void run(const moeplan_step *step, Bindings... bindings) const {
    qkv_prompt<C>(step, x.packed.data(), bindings...);
  }
  double product(const Weights &w, int64_t row, uint32_t token, double &magnitude) const {
    return roundedProduct(w, row, &x.numbers[token * C::in_features], magnitude);
  }
  RoundedRows x;
};

/// Compares a kernel with float64. `Kernel` makes its activations, starts it and knows its
/// products.
template <class C, template <class> class Kernel>
void checkQkv(uint32_t tokens, uint64_t position) {
  constexpr int64_t kDim = C::head_dim, kFeatures = C::in_features, kHalf = kDim / 2;
  const uint64_t capacity = position + 64;
  RandomNumbers random(position + tokens);
  const auto format = moeplan_format(C::weight_format);
  const Weights wq(random, C::num_heads * kDim, kFeatures, format);
  const Weights wk(random, C::num_kv_heads * kDim, kFeatures, format);
  const Weights wv(random, C::num_kv_heads * kDim, kFeatures, format);
  const Kernel<C> kernel(random, tokens);
  std::vector<float> q(tokens * C::num_heads * kDim);
  const uint16_t untouched = 0x1234;
  std::vector<uint16_t> keys(C::num_kv_heads * capacity * kDim, untouched), values = keys;
  std::vector<uint32_t> counters(C::max_tokens * C::num_kv_heads + 1, 99);
  const moeplan_step step{tokens, 0, position, capacity};
  runInEveryOrder(
      C::threads, kernel.kBlocks, 1,
      [&] {
        kernel.run(&step, wq.data(), wk.data(), wv.data(), keys.data(), values.data(), q.data(),
                   counters.data());
      },
      q, keys, values, counters);
  EXPECT_EQ(counters, std::vector<uint32_t>(counters.size(), 0));
  const auto unchanged = std::count(keys.begin(), keys.end(), untouched);
  EXPECT_GE(unchanged, int64_t(C::num_kv_heads * (capacity - tokens) * kDim));
  for (uint32_t t = 0; t < tokens; ++t) {
    const auto check = [&](const Weights &w, int64_t head, bool rotates, double relative,
                           auto &&at) {
      for (int64_t i = 0; i < kHalf; ++i) {
        double sizeA, sizeB;
        const double a = kernel.product(w, head * kDim + i, t, sizeA);
        const double b = kernel.product(w, head * kDim + i + kHalf, t, sizeB);
        const float frequency = float(std::exp(-C::log_theta * double(i) / double(kHalf)));
        const double angle = rotates ? double(float(position + t) * frequency) : 0;
        const double bound =
            sumBound(kFeatures, sizeA + sizeB) + (std::fabs(a) + std::fabs(b)) * relative;
        ASSERT_NEAR(at(i), a * std::cos(angle) - b * std::sin(angle), bound) << t << ' ' << head;
        ASSERT_NEAR(at(i + kHalf), b * std::cos(angle) + a * std::sin(angle), bound);
      }
    };
    for (int64_t h = 0; h < C::num_heads; ++h)
      check(wq, h, true, 1e-6, [&](int64_t i) { return q[(t * C::num_heads + h) * kDim + i]; });
    for (int64_t h = 0; h < C::num_kv_heads; ++h) {
      const uint64_t begin = (h * capacity + position + t) * kDim;
      check(wk, h, true, 0x1p-8, [&](int64_t i) { return fromCache(keys[begin + i]); });
      check(wv, h, false, 0x1p-8, [&](int64_t i) { return fromCache(values[begin + i]); });
    }
  }
}

TEST(SimtQkvTest, OneTokenFarIntoTheContext) {
  checkQkv<QkvConstants<2, 128, 4, 2, 64, 1>, Decode>(1, 0);
  checkQkv<QkvConstants<7, 128, 4, 2, 64, 1>, Decode>(1, 31999);
}
TEST(SimtQkvTest, SeveralTokens) {
  checkQkv<QkvConstants<3, 100, 2, 1, 32, 8>, Decode>(7, 5);
  checkQkv<QkvConstants<10, 64, 2, 2, 96, 8>, Decode>(8, 100);
}

TEST(SimtQkvTest, TilesOfPrompts) {
  checkQkv<QkvConstants<2, 128, 4, 2, 64, 64>, Prompt>(64, 1000);
  checkQkv<QkvConstants<10, 164, 2, 2, 96, 64>, Prompt>(35, 7);
}

} // namespace
} // namespace moeplan::testing
