#include "tests/unit/simt/simt_test.h"

namespace moeplan::testing {
namespace {

template <int Format, int Features> struct RowConstants {
  static constexpr long long features = Features, vocab_size = 37, weight_format = Format,
                             threads = 64;
  static constexpr double epsilon = kEpsilon;
};

template <int Format> void checkEmbedding() {
  using C = RowConstants<Format, 203>;
  RandomNumbers random(Format);
  const Weights table(random, C::vocab_size, C::features, moeplan_format(Format));
  const std::vector<int32_t> tokens{36, 0, 17};
  std::vector<float> out(4 * C::features, -5);
  const moeplan_step step{3, 0, 0, 32};
  runInEveryOrder(
      C::threads, 1, 4, [&] { embedding<C>(&step, tokens.data(), table.data(), out.data()); }, out);
  for (int t = 0; t < 3; ++t)
    for (int i = 0; i < C::features; ++i)
      ASSERT_EQ(out[t * C::features + i], table.at(tokens[t], i)) << Format << ' ' << t << ' ' << i;
  EXPECT_EQ(out[3 * C::features], -5) << "a token that is not there was written";
}

template <int... Formats> void checkEmbeddings(std::integer_sequence<int, Formats...>) {
  (checkEmbedding<Formats + 1>(), ...);
}

TEST(SimtElementwiseTest, EmbeddingsOfEveryFormat) {
  checkEmbeddings(std::make_integer_sequence<int, MOEPLAN_FORMAT_MAX>());
}

TEST(SimtElementwiseTest, NormAndSum) {
  using C = RowConstants<2, 203>;
  RandomNumbers random(3);
  const std::vector<float> x = random.floats(2 * 203), z = random.floats(2 * 203),
                           scale = random.floats(203);
  std::vector<float> norm(x.size()), sum(x.size());
  const moeplan_step step{2, 0, 0, 32};
  runInEveryOrder(
      C::threads, 1, 3, [&] { rms_norm<C>(&step, x.data(), scale.data(), norm.data()); }, norm);
  runInEveryOrder(C::threads, 1, 3, [&] { add<C>(&step, x.data(), z.data(), sum.data()); }, sum);
  for (int t = 0; t < 2; ++t)
    for (int i = 0; i < 203; ++i) {
      const int at = t * 203 + i;
      const double expected = x[at] * normFactor(&x[t * 203], 203, kEpsilon) * scale[i];
      ASSERT_NEAR(norm[at], expected, 1e-6 * std::fabs(expected));
      ASSERT_EQ(sum[at], x[at] + z[at]);
    }
}

template <int Features, bool Normalize> struct RoundedConstants {
  static constexpr long long features = Features, normalize = Normalize, threads = 64;
  static constexpr double epsilon = kEpsilon;
};

template <class C> void checkRoundedRows() {
  constexpr int64_t kFeatures = C::features, kStride = roundedColumns(C::features);
  RandomNumbers random(C::features);
  const std::vector<float> x = random.floats(3 * kFeatures), scale = random.floats(kFeatures);
  const uint16_t untouched = 0x1234;
  std::vector<uint16_t> out(4 * kStride, untouched);
  const moeplan_step step{3, 0, 0, 32};
  runInEveryOrder(
      C::threads, 1, 4, [&] { rounded_rows<C>(&step, x.data(), scale.data(), out.data()); }, out);
  std::vector<float> numbers;
  for (int64_t i = 0; i < 3 * kFeatures; ++i) {
    const double factor = normFactor(&x[i / kFeatures * kFeatures], kFeatures, kEpsilon);
    numbers.push_back(C::normalize ? float(x[i] * factor * scale[i % kFeatures]) : x[i]);
  }
  std::vector<uint16_t> expected = RoundedRows(numbers, kFeatures).packed;
  expected.resize(4 * kStride, untouched);
  for (size_t i = 0; i < out.size(); ++i) // the factor's last bit may decide about a rounding
    ASSERT_LE(std::abs(int(out[i]) - int(expected[i])), int(C::normalize)) << i;
}

TEST(SimtElementwiseTest, RowsAreRounded) {
  checkRoundedRows<RoundedConstants<512, true>>();
  checkRoundedRows<RoundedConstants<203, true>>();
  checkRoundedRows<RoundedConstants<203, false>>();
  checkRoundedRows<RoundedConstants<32, false>>();
}

} // namespace
} // namespace moeplan::testing
