#include "tests/unit/simt/simt_test.h"

#include <algorithm>

namespace moeplan::testing {
namespace {

template <int Normalize> struct HostConstants {
  static constexpr long long features = 50, num_experts = 6, top_k = 2, normalize = Normalize,
                             threads = 64;
  static constexpr double epsilon = kEpsilon;
};

/// A step whose (token, expert) pairs are sorted by expert; experts 1, 2 and 5 are on the host.
struct Routing {
  explicit Routing(std::vector<uint32_t> pairs)
      : ids(std::move(pairs)), tokens(uint32_t(ids.size() / 2)) {
    for (uint32_t e = 0; e < 6; ++e) {
      for (size_t pair = 0; pair < ids.size(); ++pair)
        if (ids[pair] == e) {
          token.push_back(uint32_t(pair / 2));
          weight.push_back(0.25f + 0.01f * float(pair));
        }
      begin.push_back(uint32_t(token.size()));
      experts[e].on_host = e == 1 || e == 2 || e == 5;
    }
  }
  bool isAway(uint32_t t) const {
    return experts[ids[2 * t]].on_host || experts[ids[2 * t + 1]].on_host;
  }

  std::vector<uint32_t> ids;
  uint32_t tokens;
  moeplan_expert experts[6] = {};
  std::vector<uint32_t> begin{0}, token;
  std::vector<float> weight;
};

constexpr float kUntouched = -77;

template <int Normalize> void checkDivision(const Routing &routing) {
  using C = HostConstants<Normalize>;
  RandomNumbers random(routing.tokens);
  const uint32_t tokens = routing.tokens;
  const std::vector<float> x = random.floats(tokens * C::features),
                           scale = random.floats(C::features);
  const moeplan_step step{tokens, 0, 0, 32};
  std::vector<float> rows(8 * C::features, kUntouched);
  std::vector<uint32_t> begin[2], token[2];
  std::vector<float> weight[2];
  for (int there = 0; there < 2; ++there) {
    begin[there].assign(7, 99);
    token[there].assign(16, 99);
    weight[there].assign(16, kUntouched);
  }
  runInEveryOrder(
      C::threads, 1, 8,
      [&] {
        experts_to_host<C>(&step, x.data(), scale.data(), routing.experts, routing.ids.data(),
                           routing.begin.data(), routing.token.data(), routing.weight.data(),
                           rows.data(), begin[0].data(), token[0].data(), weight[0].data(),
                           begin[1].data(), token[1].data(), weight[1].data());
      },
      rows, begin[0], token[0], weight[0], begin[1], token[1], weight[1]);
  for (int there = 0; there < 2; ++there) {
    uint32_t slot = 0;
    for (uint32_t e = 0; e < 6; ++e) {
      EXPECT_EQ(begin[there][e], slot);
      for (uint32_t i = routing.begin[e]; i < routing.begin[e + 1]; ++i)
        if (routing.experts[e].on_host == there) {
          EXPECT_EQ(token[there][slot], routing.token[i]);
          EXPECT_EQ(weight[there][slot], routing.weight[i]);
          ++slot;
        }
    }
    EXPECT_EQ(begin[there][6], slot);
    EXPECT_TRUE(std::all_of(token[there].begin() + slot, token[there].end(),
                            [](uint32_t untouched) { return untouched == 99; }));
  }
  for (uint32_t t = 0; t < 8; ++t)
    for (int i = 0; i < C::features; ++i) {
      const float got = rows[t * C::features + i];
      if (t >= tokens || !routing.isAway(t)) {
        ASSERT_EQ(got, kUntouched) << "token " << t;
        continue;
      }
      const double value = x[t * C::features + i];
      const double factor = normFactor(&x[t * C::features], C::features, kEpsilon);
      ASSERT_NEAR(got, Normalize ? value * factor * scale[i] : value,
                  1e-5 * std::fabs(value) + 1e-9);
    }
}

TEST(SimtHostExpertsTest, SlotsAreDividedAndRowsWritten) {
  for (const std::vector<uint32_t> &pairs : {std::vector<uint32_t>{0, 1},
                                             {0, 3},
                                             {2, 5},
                                             {5, 2, 0, 1, 4, 3, 1, 2, 1, 5},
                                             {0, 3, 3, 4, 4, 0},
                                             {1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2}}) {
    checkDivision<0>(Routing(pairs));
    checkDivision<1>(Routing(pairs));
  }
}

TEST(SimtHostExpertsTest, OnlyTokensWithAnExpertOnTheHostAreAddedTo) {
  using C = HostConstants<0>;
  const Routing routing({0, 3, 5, 0, 3, 4, 4, 1});
  RandomNumbers random(3);
  const moeplan_step step{routing.tokens, 0, 0, 32};
  std::vector<float> z = random.floats(8 * C::features), y = random.floats(8 * C::features);
  const std::vector<float> before = y;
  runInEveryOrder(
      C::threads, 1, 8,
      [&] { experts_from_host<C>(&step, routing.experts, routing.ids.data(), z.data(), y.data()); },
      y);
  for (uint32_t t = 0; t < 8; ++t)
    for (int i = 0; i < C::features; ++i) {
      const size_t at = t * C::features + i;
      ASSERT_EQ(y[at], t == 1 || t == 3 ? before[at] + z[at] : before[at]) << "token " << t;
    }
}

} // namespace
} // namespace moeplan::testing
