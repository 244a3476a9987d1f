#include "tests/unit/simt/simt_test.h"

namespace moeplan::testing {
namespace {

struct LinearCase {
  uint32_t tokens, logitsBegin = 0;
};

template <int Format, int Rows, int Columns, int MaxTokens, bool Normalize, bool Accumulate,
          bool LogitsRows = false, int Threads = 256>
struct LinearConstants {
  static constexpr long long in_features = Columns, out_features = Rows, weight_format = Format,
                             normalize = Normalize, accumulate = Accumulate,
                             logits_rows = LogitsRows, max_tokens = MaxTokens, threads = Threads;
  static constexpr double epsilon = kEpsilon;
};

template <class C> void checkLinear(std::vector<LinearCase> cases) {
  RandomNumbers random(C::weight_format * 31 + C::max_tokens);
  const Weights w(random, C::out_features, C::in_features, moeplan_format(C::weight_format));
  const std::vector<float> scale = random.floats(C::in_features);
  for (const auto &[tokens, logitsBegin] : cases) {
    const std::vector<float> x = random.floats(tokens * C::in_features);
    const std::vector<float> before = random.floats(tokens * C::out_features);
    std::vector<float> y = before;
    const moeplan_step step{tokens, logitsBegin, 0, 32};
    const auto blocks = unsigned((C::out_features + 31) / 32);
    runInEveryOrder(
        C::threads, blocks, 1,
        [&] { linear<C>(&step, x.data(), scale.data(), w.data(), y.data()); }, y);
    for (uint32_t t = 0; t < tokens; ++t) {
      const float *row = x.data() + t * C::in_features;
      const double factor = C::normalize ? normFactor(row, C::in_features, kEpsilon) : 1;
      for (int64_t n = 0; n < C::out_features; ++n) {
        const float got = y[size_t(t * C::out_features + n)];
        const float old = before[size_t(t * C::out_features + n)];
        if (C::logits_rows && t < logitsBegin) {
          ASSERT_EQ(got, old) << "a row that is not wanted was written";
          continue;
        }
        double magnitude;
        const double product =
            factor * dotProduct(w, n, row, C::normalize ? scale.data() : nullptr, magnitude);
        ASSERT_NEAR(got, product + (C::accumulate ? old : 0),
                    sumBound(C::in_features, magnitude * factor + std::fabs(old)))
            << "token " << t << " of " << tokens << ", row " << n;
      }
    }
  }
}

template <typename F> class LinearTest : public ::testing::Test {};
TYPED_TEST_SUITE(LinearTest, Formats, FormatName);

TYPED_TEST(LinearTest, OneToken) {
  checkLinear<LinearConstants<TypeParam::id, 64, 256, 1, true, true>>({{1}});
}
TYPED_TEST(LinearTest, UpToEightTokens) {
  checkLinear<LinearConstants<TypeParam::id, 32, 256, 8, true, false>>({{8}, {3}, {1}});
}
TYPED_TEST(LinearTest, ShapesThatFillNoTile) {
  checkLinear<LinearConstants<TypeParam::id, 44, 204, 1, false, true>>({{1}});
  checkLinear<LinearConstants<TypeParam::id, 44, 203, 8, true, false>>({{5}});
}

TEST(LinearRowsTest, OnlyWantedLogitsAreWritten) {
  checkLinear<LinearConstants<2, 48, 64, 8, true, false, true, 128>>(
      {{8, 7}, {8, 8}, {5, 0}, {6, 3}});
  checkLinear<LinearConstants<2, 48, 64, 1, true, false, true>>({{1, 0}, {1, 1}});
}

template <int Format, int Rows, int Columns, int MaxTokens, int TileTokens, bool Accumulate,
          bool LogitsRows = false>
struct LinearPromptConstants {
  static constexpr long long in_features = Columns, out_features = Rows, weight_format = Format,
                             accumulate = Accumulate, logits_rows = LogitsRows,
                             max_tokens = MaxTokens, tile_tokens = TileTokens, threads = 64;
};

template <class C> void checkLinearPrompt(std::vector<LinearCase> cases) {
  RandomNumbers random(C::weight_format * 31 + C::max_tokens);
  const Weights w(random, C::out_features, C::in_features, moeplan_format(C::weight_format));
  for (const auto &[tokens, logitsBegin] : cases) {
    const RoundedRows x(random, tokens, C::in_features);
    const std::vector<float> before = random.floats(C::max_tokens * C::out_features);
    std::vector<float> y = before;
    const moeplan_step step{tokens, logitsBegin, 0, 32};
    const unsigned tiles = unsigned((C::max_tokens + C::tile_tokens - 1) / C::tile_tokens);
    runInEveryOrder(
        C::threads, unsigned((C::out_features + C::threads - 1) / C::threads) * tiles, 1,
        [&] { linear_prompt<C>(&step, x.packed.data(), w.data(), y.data()); }, y);
    for (uint32_t t = 0; t < C::max_tokens; ++t)
      for (int64_t n = 0; n < C::out_features; ++n) {
        const auto at = size_t(t * C::out_features + n);
        if (t >= tokens || (C::logits_rows && t < logitsBegin)) {
          ASSERT_EQ(y[at], before[at]) << "a row that is not wanted was written";
          continue;
        }
        double magnitude;
        const double product = roundedProduct(w, n, &x.numbers[t * C::in_features], magnitude);
        ASSERT_NEAR(y[at], product + (C::accumulate ? before[at] : 0),
                    sumBound(C::in_features, magnitude + std::fabs(before[at])))
            << "token " << t << " of " << tokens << ", row " << n;
      }
  }
}

TYPED_TEST(LinearTest, TilesOfPrompts) {
  checkLinearPrompt<LinearPromptConstants<TypeParam::id, 72, 300, 40, 32, true>>({{40}, {5}});
}
TYPED_TEST(LinearTest, LargeTilesOfPrompts) {
  checkLinearPrompt<LinearPromptConstants<TypeParam::id, 33, 203, 64, 64, false>>({{33}});
}
TEST(LinearRowsTest, OnlyWantedLogitsOfPromptsAreWritten) {
  checkLinearPrompt<LinearPromptConstants<2, 48, 64, 64, 16, true, true>>(
      {{40, 39}, {40, 40}, {9, 0}, {20, 7}});
}

} // namespace
} // namespace moeplan::testing
