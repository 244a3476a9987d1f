#include "tests/unit/simt/simt_test.h"

#include <algorithm>
#include <limits>

namespace moeplan::testing {
namespace {

template <int Vocabulary, int Count, int Threads> struct CandidatesConstants {
  static constexpr long long vocab_size = Vocabulary, count = Count, threads = Threads;
};

/// Compares with a stable sort, `logitOf(i)` being that of token i.
template <int Vocabulary, int Count = 64, int Threads = 128, typename Logit>
void check(Logit &&logitOf) {
  using C = CandidatesConstants<Vocabulary, Count, Threads>;
  std::vector<float> logits(3 * Vocabulary, INFINITY); // of other tokens
  std::vector<moeplan_candidate> expected;
  for (int i = 0; i < Vocabulary; ++i) {
    logits[Vocabulary + i] = logitOf(i);
    expected.push_back({logits[Vocabulary + i], i});
  }
  const auto value = [](const moeplan_candidate &c) {
    return std::isnan(c.logit) ? -INFINITY : c.logit;
  };
  std::stable_sort(expected.begin(), expected.end(),
                   [&](const auto &a, const auto &b) { return value(a) > value(b); });
  expected.resize(Count, {-INFINITY, -1});
  for (const simt::Order order :
       {simt::Order::Forward, simt::Order::Backward, simt::Order::Shuffled}) {
    std::vector<moeplan_candidate> out(Count, {0, -5});
    moeplan_step step{2, 1, 0, 32};
    ASSERT_EQ(simt::run({{1, 1, 1}, Threads, order},
                        [&] { candidates<C>(&step, logits.data(), out.data()); }),
              "");
    for (int i = 0; i < Count; ++i) {
      ASSERT_EQ(out[i].token, expected[i].token) << i;
      ASSERT_EQ(__float_as_uint(out[i].logit), __float_as_uint(expected[i].logit)) << i;
    }
    step.logits_begin = 2; // none is wanted
    out[0].token = -7;
    ASSERT_EQ(simt::run({{1, 1, 1}, Threads, order},
                        [&] { candidates<C>(&step, logits.data(), out.data()); }),
              "");
    ASSERT_EQ(out[0].token, -7);
  }
}

TEST(SimtCandidatesTest, VocabulariesOfAnySize) {
  RandomNumbers random(1);
  const auto logit = [&](int) { return 20 * random.next(); };
  check<17>(logit);
  check<64>(logit);
  check<65>(logit);
  check<1000>(logit);
  check<32000, 64, 1024>(logit);
  check<500, 8, 32>(logit);
}

TEST(SimtCandidatesTest, TiesGoToTheLowestIds) {
  RandomNumbers random(2);
  check<1000>([&](int) { return float(random.below(12)) - 6; });
  check<1000>([](int) { return 1.0f; });
  check<1000>([](int i) { return i % 2 ? 0.0f : -0.0f; });
}

TEST(SimtCandidatesTest, NumbersThatAreNone) {
  RandomNumbers random(3);
  check<300>([](int i) { return i % 7 ? NAN : float(i); });
  check<300>([](int) { return NAN; });
  check<300>([](int i) { return i % 2 ? -INFINITY : i % 3 ? INFINITY : -1e30f; });
  check<300>([](int i) { return i % 5 ? -NAN : std::numeric_limits<float>::denorm_min(); });
}

} // namespace
} // namespace moeplan::testing
