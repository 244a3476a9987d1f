#include "tests/unit/simt/simt_test.h"

#include <algorithm>
#include <numeric>

namespace moeplan::testing {
namespace {

template <int Features, int Experts, int Top, int MaxTokens> struct RouterConstants {
  static constexpr long long features = Features, num_experts = Experts, top_k = Top, normalize = 1,
                             max_tokens = MaxTokens, counter_index = 3, threads = 256;
  static constexpr double epsilon = kEpsilon;
};

template <class C> struct Routed {
  Routed(uint32_t tokens, const std::vector<float> &x, const std::vector<float> &scale,
         const std::vector<float> &gate)
      : ids(tokens * C::top_k), weights(ids.size()), begin(C::num_experts + 1), token(ids.size()),
        weight(ids.size()) {
    const moeplan_step step{tokens, 0, 0, 32};
    std::vector<uint32_t> counters(C::counter_index + 1);
    runInEveryOrder(
        C::threads, 1, C::max_tokens,
        [&] {
          router<C>(&step, x.data(), scale.data(), gate.data(), ids.data(), weights.data(),
                    counters.data(), begin.data(), token.data(), weight.data());
        },
        ids, weights, counters, begin, token, weight);
  }
  std::vector<uint32_t> ids;
  std::vector<float> weights;
  std::vector<uint32_t> begin, token;
  std::vector<float> weight;
};

template <class C> void checkRouter(uint32_t tokens) {
  RandomNumbers random(tokens);
  const std::vector<float> x = random.floats(tokens * C::features),
                           scale = random.floats(C::features),
                           gate = random.floats(C::num_experts * C::features);
  const Routed<C> got(tokens, x, scale, gate);
  std::vector<std::vector<std::pair<uint32_t, double>>> of(C::num_experts);
  for (uint32_t t = 0; t < tokens; ++t) {
    std::vector<double> scores(C::num_experts);
    const double factor = normFactor(&x[t * C::features], C::features, kEpsilon);
    for (int e = 0; e < C::num_experts; ++e)
      for (int i = 0; i < C::features; ++i)
        scores[e] += factor * x[t * C::features + i] * scale[i] * gate[e * C::features + i];
    std::vector<int> order(C::num_experts);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
    double total = 0;
    for (int k = 0; k < C::top_k; ++k)
      total += std::exp(scores[order[k]] - scores[order[0]]);
    for (int k = 0; k < C::top_k; ++k)
      of[order[k]].push_back({t, std::exp(scores[order[k]] - scores[order[0]]) / total});
  }
  uint32_t slot = 0;
  for (int e = 0; e < C::num_experts; ++e) {
    ASSERT_EQ(got.begin[e], slot);
    for (const auto &[token, weight] : of[e]) {
      ASSERT_EQ(got.token[slot], token) << "slot " << slot;
      ASSERT_NEAR(got.weight[slot], weight, 1e-5);
      ++slot;
    }
  }
  EXPECT_EQ(got.begin[C::num_experts], slot);
}

TEST(SimtRouterTest, OneToken) {
  checkRouter<RouterConstants<300, 8, 2, 1>>(1);
  checkRouter<RouterConstants<64, 19, 5, 1>>(1);
}
TEST(SimtRouterTest, ManyTokens) {
  checkRouter<RouterConstants<64, 8, 2, 64>>(64);
  checkRouter<RouterConstants<64, 8, 2, 64>>(37);
  checkRouter<RouterConstants<96, 19, 3, 8>>(5);
}

TEST(SimtRouterTest, TiesGoToTheLowestExpert) {
  using C = RouterConstants<32, 8, 3, 1>;
  const Routed<C> got(1, std::vector<float>(32, 1), std::vector<float>(32, 1),
                      std::vector<float>(8 * 32, 1));
  EXPECT_EQ(got.ids, (std::vector<uint32_t>{0, 1, 2}));
}

TEST(SimtRouterTest, NoNumberStillChoosesExpertsThatThereAre) {
  using C = RouterConstants<32, 8, 2, 8>;
  RandomNumbers random(1);
  std::vector<float> x = random.floats(8 * 32);
  x[5] = NAN;
  x[40] = INFINITY;
  const moeplan_step step{8, 0, 0, 32};
  std::vector<float> scale(32, 1), gate = random.floats(8 * 32), weights(16), weight(16);
  std::vector<uint32_t> ids(16, 77), counters(4), begin(9), token(16, 77);
  ASSERT_EQ(simt::run({{1, 8, 1}, C::threads},
                      [&] {
                        router<C>(&step, x.data(), scale.data(), gate.data(), ids.data(),
                                  weights.data(), counters.data(), begin.data(), token.data(),
                                  weight.data());
                      }),
            "");
  for (uint32_t t = 0; t < 8; ++t) {
    EXPECT_LT(ids[2 * t], 8u);
    EXPECT_LT(ids[2 * t + 1], 8u);
    EXPECT_NE(ids[2 * t], ids[2 * t + 1]);
  }
  EXPECT_EQ(begin[8], 16u);
  EXPECT_TRUE(std::all_of(token.begin(), token.end(), [](uint32_t t) { return t < 8; }));
}

} // namespace
} // namespace moeplan::testing
