#include "tests/unit/simt/simt_test.h"

#include <algorithm>

namespace moeplan::testing {
namespace {

constexpr int kExperts = 8, kTop = 2;

template <long long Formats, int Features, int Intermediate, int MaxTokens, int Threads>
struct ExpertConstants {
  static constexpr long long features = Features, intermediate = Intermediate,
                             num_experts = kExperts, top_k = kTop, formats = Formats, normalize = 1,
                             accumulate = 1, max_tokens = MaxTokens, threads = Threads;
  static constexpr double epsilon = kEpsilon;
};

/// Pairs of (token, expert) as the router leaves them.
struct Routing {
  Routing(RandomNumbers &random, uint32_t tokens) : begin(kExperts + 1) {
    std::vector<std::vector<uint32_t>> of(kExperts);
    for (uint32_t t = 0; t < tokens; ++t) {
      // Experts 3 and 6 are never chosen.
      constexpr int kChosen[] = {0, 1, 2, 4, 5, 7};
      const auto first = random.below(6), second = (first + 1 + random.below(5)) % 6;
      of[kChosen[first]].push_back(t);
      of[kChosen[second]].push_back(t);
    }
    for (int e = 0; e < kExperts; ++e) {
      begin[e + 1] = begin[e] + uint32_t(of[e].size());
      token.insert(token.end(), of[e].begin(), of[e].end());
    }
    for (size_t s = 0; s < token.size(); ++s)
      weight.push_back(0.75f + random.next() / 4);
  }
  int expertOf(uint32_t slot) const {
    return int(std::upper_bound(begin.begin(), begin.end(), slot) - begin.begin()) - 1;
  }
  std::vector<uint32_t> begin, token;
  std::vector<float> weight;
};

/// `formats[e]` are those of w1, w3, w2 of expert e.
using ExpertFormats = std::vector<std::array<int, 3>>;

struct Experts {
  Experts(RandomNumbers &random, const ExpertFormats &formats, int64_t features,
          int64_t intermediate) {
    for (const auto &f : formats) {
      weights.push_back({Weights(random, intermediate, features, moeplan_format(f[0])),
                         Weights(random, intermediate, features, moeplan_format(f[1])),
                         Weights(random, features, intermediate, moeplan_format(f[2]))});
      const auto &w = weights.back();
      table.push_back({w[0].data(), w[1].data(), w[2].data(), uint16_t(f[0]), uint16_t(f[1]),
                       uint16_t(f[2]), 0});
    }
  }
  std::vector<std::array<Weights, 3>> weights;
  std::vector<moeplan_expert> table;
};

/// How far silu(gate) * up may be off where its factors are by as much; its own roundings included.
double gatedBound(double gate, double gateBound, double up, double upBound) {
  // d silu(g) / dg is below 1.1, |silu(g)| <= |g|.
  return 1.1 * gateBound * (std::fabs(up) + upBound) + std::fabs(gate) * upBound +
         0x1p-20 * std::fabs(gate * up);
}

template <class Up, class Down>
void checkExperts(const ExpertFormats &formats, std::vector<uint32_t> counts) {
  constexpr int64_t kFeatures = Up::features, kIntermediate = Up::intermediate;
  RandomNumbers random(uint64_t(Up::formats) + Up::max_tokens);
  const Experts experts(random, formats, kFeatures, kIntermediate);
  const auto &[weights, table] = experts;
  const std::vector<float> scale = random.floats(kFeatures);
  for (const uint32_t tokens : counts) {
    const Routing routing(random, tokens);
    const auto slots = uint32_t(routing.token.size());
    const std::vector<float> x = random.floats(tokens * kFeatures);
    const moeplan_step step{tokens, 0, 0, 32};

    std::vector<float> h(slots * kIntermediate);
    const auto blocks =
        unsigned((kIntermediate + 31) / 32 * std::min<int64_t>(kExperts, Up::max_tokens * kTop));
    runInEveryOrder(
        Up::threads, blocks, 1,
        [&] {
          experts_gate_up<Up>(&step, x.data(), scale.data(), table.data(), routing.begin.data(),
                              routing.token.data(), h.data());
        },
        h);
    for (uint32_t s = 0; s < slots; ++s) {
      const float *row = x.data() + routing.token[s] * kFeatures;
      const double factor = normFactor(row, kFeatures, kEpsilon);
      const auto &w = weights[routing.expertOf(s)];
      for (int64_t n = 0; n < kIntermediate; ++n) {
        double gateSize, upSize;
        const double gate = factor * dotProduct(w[0], n, row, scale.data(), gateSize);
        const double up = factor * dotProduct(w[1], n, row, scale.data(), upSize);
        ASSERT_NEAR(h[s * kIntermediate + n], gate / (1 + std::exp(-gate)) * up,
                    gatedBound(gate, sumBound(kFeatures, gateSize * factor), up,
                               sumBound(kFeatures, upSize * factor)))
            << "slot " << s << " of " << slots << ", row " << n;
      }
    }

    const std::vector<float> before = random.floats(tokens * kFeatures);
    std::vector<float> y = before;
    runInEveryOrder(
        Down::threads, unsigned((kFeatures + 31) / 32), 1,
        [&] {
          experts_down<Down>(&step, h.data(), table.data(), routing.begin.data(),
                             routing.token.data(), routing.weight.data(), y.data());
        },
        y);
    std::vector<double> expected(before.begin(), before.end()), bound(y.size());
    for (uint32_t s = 0; s < slots; ++s)
      for (int64_t n = 0; n < kFeatures; ++n) {
        double magnitude;
        const double product = dotProduct(weights[routing.expertOf(s)][2], n,
                                          h.data() + s * kIntermediate, nullptr, magnitude);
        expected[routing.token[s] * kFeatures + n] += routing.weight[s] * product;
        bound[routing.token[s] * kFeatures + n] += sumBound(kIntermediate, magnitude + 1);
      }
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(y[i], expected[i], bound[i]) << "element " << i % kFeatures;
  }
}

template <long long Formats, int Features, int Intermediate, int MaxTokens>
void checkShape(const ExpertFormats &formats, std::vector<uint32_t> counts) {
  checkExperts<ExpertConstants<Formats, Features, Intermediate, MaxTokens, 128>,
               ExpertConstants<Formats, Features, Intermediate, MaxTokens, 256>>(formats, counts);
}

template <long long Formats, int Features, int Intermediate, int TileTokens, int Threads>
struct ExpertPromptConstants {
  static constexpr long long features = Features, intermediate = Intermediate,
                             num_experts = kExperts, top_k = kTop, formats = Formats,
                             accumulate = 1, max_tokens = 64, tile_tokens = TileTokens,
                             threads = Threads;
};

template <class C> void checkPrompts(const ExpertFormats &formats, std::vector<uint32_t> counts) {
  constexpr int64_t kFeatures = C::features, kIntermediate = C::intermediate;
  constexpr unsigned kTiles = C::max_tokens * kTop / C::tile_tokens + kExperts;
  RandomNumbers random(uint64_t(C::formats) + C::tile_tokens);
  const Experts experts(random, formats, kFeatures, kIntermediate);
  for (const uint32_t tokens : counts) {
    const Routing routing(random, tokens);
    const auto slots = uint32_t(routing.token.size());
    const RoundedRows x(random, tokens, kFeatures);
    const moeplan_step step{tokens, 0, 0, 32};
    const auto rowBlocks = [&](int64_t rows, int64_t of) { return unsigned((rows + of - 1) / of); };

    const int64_t stride = roundedColumns(kIntermediate);
    std::vector<uint16_t> packed((slots + 1) * stride, 0x1234);
    runInEveryOrder(
        C::threads, rowBlocks(kIntermediate, C::threads / 2) * kTiles, 1,
        [&] {
          experts_gate_up_prompt<C>(&step, x.packed.data(), experts.table.data(),
                                    routing.begin.data(), routing.token.data(), packed.data());
        },
        packed);
    std::vector<float> h(slots * kIntermediate);
    for (uint32_t s = 0; s < slots; ++s)
      for (int64_t n = 0; n < stride; ++n) {
        const uint16_t got = packed[s * stride + n / 4 * 4 +
                                    (n % 4 == 1   ? 2
                                     : n % 4 == 2 ? 1
                                                  : n % 4)];
        if (n >= kIntermediate) {
          ASSERT_EQ(got, 0) << "column " << n << " of the padding";
          continue;
        }
        const float value = h[s * kIntermediate + n] = __uint_as_float(uint32_t(got) << 16);
        const float *row = &x.numbers[routing.token[s] * kFeatures];
        const auto &w = experts.weights[routing.expertOf(s)];
        double gateSize, upSize;
        const double gate = roundedProduct(w[0], n, row, gateSize);
        const double up = roundedProduct(w[1], n, row, upSize);
        const double expected = gate / (1 + std::exp(-gate)) * up;
        ASSERT_NEAR(value, expected,
                    0x1p-8 * std::fabs(expected) + gatedBound(gate, sumBound(kFeatures, gateSize),
                                                              up, sumBound(kFeatures, upSize)))
            << "slot " << s << " of " << slots << ", row " << n;
      }
    EXPECT_EQ(std::count(packed.end() - stride, packed.end(), 0x1234), stride);

    std::vector<float> z((slots + 1) * kFeatures, -5);
    runInEveryOrder(
        C::threads, rowBlocks(kFeatures, C::threads) * kTiles, 1,
        [&] {
          experts_down_prompt<C>(&step, packed.data(), experts.table.data(), routing.begin.data(),
                                 z.data());
        },
        z);
    EXPECT_EQ(z[slots * kFeatures], -5);
    const std::vector<float> before = random.floats((tokens + 1) * kFeatures);
    std::vector<float> y = before;
    runInEveryOrder(
        C::threads, 1, tokens + 1,
        [&] {
          combine_experts<C>(&step, z.data(), routing.begin.data(), routing.token.data(),
                             routing.weight.data(), y.data());
        },
        y);
    std::vector<double> expected(before.begin(), before.end()), bound(y.size());
    for (uint32_t s = 0; s < slots; ++s)
      for (int64_t n = 0; n < kFeatures; ++n) {
        const auto at = routing.token[s] * kFeatures + n;
        double magnitude;
        expected[at] += routing.weight[s] * roundedProduct(experts.weights[routing.expertOf(s)][2],
                                                           n, &h[s * kIntermediate], magnitude);
        bound[at] += sumBound(kIntermediate, magnitude + 1);
      }
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(y[i], expected[i], bound[i]) << "element " << i % kFeatures;
  }
}

template <typename F> class ExpertsTest : public ::testing::Test {};
TYPED_TEST_SUITE(ExpertsTest, Formats, FormatName);

template <int F> ExpertFormats allOf() { return ExpertFormats(kExperts, {F, F, F}); }

TYPED_TEST(ExpertsTest, OneToken) {
  checkShape<1ll << TypeParam::id, 128, 96, 1>(allOf<TypeParam::id>(), {1});
}
TYPED_TEST(ExpertsTest, UpToEightTokens) {
  checkShape<1ll << TypeParam::id, 100, 72, 8>(allOf<TypeParam::id>(), {8, 3});
}

// Every format in one layer, and different ones within an expert.
ExpertFormats mixed() {
  ExpertFormats formats;
  for (int e = 0; e < kExperts; ++e)
    formats.push_back({2 + e % 13, 2 + (e + 5) % 13, 2 + (e + 7) % 13});
  return formats;
}
constexpr long long kEveryFormat = 0x7ffc;

TEST(MixedExpertsTest, OneToken) { checkShape<kEveryFormat, 256, 130, 1>(mixed(), {1}); }
TEST(MixedExpertsTest, UpToEightTokens) { checkShape<kEveryFormat, 64, 96, 8>(mixed(), {8, 5}); }
TYPED_TEST(ExpertsTest, TilesOfPrompts) {
  checkPrompts<ExpertPromptConstants<1ll << TypeParam::id, 140, 72, 16, 64>>(allOf<TypeParam::id>(),
                                                                             {64, 7});
}
TEST(MixedExpertsTest, TilesOfPrompts) {
  checkPrompts<ExpertPromptConstants<kEveryFormat, 96, 132, 32, 128>>(mixed(), {64, 33, 1});
  checkPrompts<ExpertPromptConstants<kEveryFormat, 64, 40, 64, 64>>(mixed(), {50});
}

} // namespace
} // namespace moeplan::testing
