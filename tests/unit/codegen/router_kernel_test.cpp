#include "tests/unit/codegen/kernel_test.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

namespace moeplan::testing {
namespace {

constexpr double kEpsilon = 1e-5;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  int64_t features, experts, topK, normalize, forms, logitsRows;
};
constexpr Case kCases[] = {{192, 6, 3, 1, kAllForms, 0},
                           {128, 8, 2, 1, MOEPLAN_FORM_Q8, 1},
                           {7, 5, 1, 0, MOEPLAN_FORM_BF16, 1},
                           {129, 3, 3, 1, MOEPLAN_FORM_F32 | MOEPLAN_FORM_Q8, 1},
                           {320, 1, 1, 0, 0, 0}};

/// Tokens and what they are routed by.
struct Inputs {
  Inputs(const Case &c, uint32_t tokens, uint64_t seed)
      : random(seed), x(random.floats(size_t(tokens * c.features))),
        scale(random.floats(size_t(c.features))),
        gate(random, c.experts, c.features, MOEPLAN_FORMAT_F32) {}

  RandomNumbers random;
  std::vector<float> x, scale;
  Weights gate;
};

/// What `router` writes.
struct Routes {
  Routes(const Case &c, uint32_t tokens)
      : ids(size_t(tokens * c.topK), -1), weights(ids.size(), -1.0f),
        operand(tokens, c.features, c.forms) {}

  std::vector<int32_t> ids;
  std::vector<float> weights;
  Operands operand;
};

/// What `group_by_expert` writes.
struct Groups {
  Groups(const Case &c, uint32_t tokens)
      : begin(size_t(c.experts) + 1, 99), token(size_t(tokens * c.topK), 99),
        weight(token.size(), 99.0f) {}
  bool operator==(const Groups &) const = default;

  std::vector<uint32_t> begin, token;
  std::vector<float> weight;
};

class RouterKernelTest : public KernelTest {
protected:
  std::vector<Kernel> compileRouters(const char *implementation, unsigned bindings) {
    std::vector<Constants> all;
    for (const Case &c : kCases)
      all.push_back({{"features", c.features},
                     {"num_experts", c.experts},
                     {"top_k", c.topK},
                     {"normalize", c.normalize},
                     {"epsilon", kEpsilon},
                     {"forms", c.forms},
                     {"logits_rows", c.logitsRows}});
    return compile(implementation, bindings, all);
  }
  std::vector<Kernel> compileRouters() { return compileRouters("router", 6); }
  std::vector<Kernel> compileVectorRouters() { return compileRouters("vector_router", 7); }
  std::vector<Kernel> compileGroups() {
    std::vector<Constants> all;
    for (const Case &c : kCases)
      all.push_back({{"num_experts", c.experts}, {"top_k", c.topK}, {"logits_rows", c.logitsRows}});
    return compile("group_by_expert", 5, all);
  }

  static Routes route(const Kernel &kernel, const Case &c, const Inputs &in,
                      const moeplan_step &step) {
    Routes out(c, step.token_count);
    kernel.runInPieces({in.x.data(), in.scale.data(), in.gate.data(), out.ids.data(),
                        out.weights.data(), out.operand.bytes.data()},
                       step, step.token_count);
    return out;
  }
  static Groups group(const Kernel &kernel, const Case &c, const Routes &routes,
                      const moeplan_step &step) {
    Groups out(c, step.token_count);
    kernel.runInPieces({routes.ids.data(), routes.weights.data(), out.begin.data(),
                        out.token.data(), out.weight.data()},
                       step, 1);
    return out;
  }
};

TEST_P(RouterKernelTest, ChoicesAndWeightsEqualTheReference) {
  const std::vector<Kernel> kernels = compileRouters();
  for (size_t i = 0; i < std::size(kCases); ++i) {
    const Case &c = kCases[i];
    for (uint32_t count : {1, 2, 5, 9, 33}) {
      const moeplan_step step{count, 0, 0, 0};
      const Inputs in(c, count, i);
      Routes expected(c, count);
      moeplan_cpu_router_reference(
          &step, 0, count, in.x.data(), in.scale.data(), static_cast<const float *>(in.gate.data()),
          expected.ids.data(), expected.weights.data(), expected.operand.bytes.data(), c.features,
          c.experts, c.topK, c.normalize, kEpsilon, c.forms, 0);
      const Routes actual = route(kernels[i], c, in, step);
      std::vector<float> rows = in.x;
      if (c.normalize)
        moeplan_cpu_rms_norm_reference(&step, 0, count, in.x.data(), in.scale.data(), rows.data(),
                                       c.features, kEpsilon, 0);
      double bound = 0;
      for (uint32_t t = 0; t < count; ++t)
        for (int64_t e = 0; e < c.experts; ++e) {
          const float *row = rows.data() + t * c.features;
          const double product = dotBound(in.gate, e, row);
          // The norm's error is relative, to each term of the product.
          const double norm = c.normalize ? normBound(c.features) / kUnitRoundoff /
                                                floatRoundings(c.features) * product
                                          : 0;
          bound = std::max(bound, product + norm);
        }
      // No two scores of these numbers are as near as their errors.
      EXPECT_EQ(actual.ids, expected.ids) << c.experts << " experts, " << count << " tokens";
      // A weight is a ratio of exponentials of score differences.
      for (size_t k = 0; k < actual.weights.size(); ++k)
        ASSERT_NEAR(actual.weights[k], expected.weights[k],
                    expected.weights[k] * (4 * bound + (12 + double(c.topK)) * kUnitRoundoff));
    }
  }
}

TEST_P(RouterKernelTest, OperandsAreThoseOfTheOperandKernel) {
  std::vector<Constants> all;
  for (const Case &c : kCases)
    all.push_back({{"features", c.features},
                   {"normalize", c.normalize},
                   {"epsilon", kEpsilon},
                   {"forms", c.forms},
                   {"logits_rows", int64_t(0)}});
  const std::vector<Kernel> routers = compileRouters(), operands = compile("operand", 3, all);
  for (size_t i = 0; i < std::size(kCases); ++i) {
    const Case &c = kCases[i];
    const moeplan_step step{5, 0, 0, 0};
    const Inputs in(c, 5, 100 + i);
    Operands expected(5, c.features, c.forms);
    operands[i].run({in.x.data(), in.scale.data(), expected.bytes.data()}, step, 5);
    EXPECT_EQ(route(routers[i], c, in, step).operand.bytes, expected.bytes) << c.features;
  }
}

TEST_P(RouterKernelTest, OfEqualScoresTheLowerIndexWins) {
  const Kernel kernel = compileOne("router", 6,
                                   {{"features", int64_t(7)},
                                    {"num_experts", int64_t(6)},
                                    {"top_k", int64_t(3)},
                                    {"normalize", int64_t(0)},
                                    {"epsilon", kEpsilon},
                                    {"forms", int64_t(0)},
                                    {"logits_rows", int64_t(0)}});
  std::vector<float> x(7, 1.0f), gate(42, 0.5f), weights(3);
  std::vector<int32_t> ids(3);
  kernel.run({x.data(), nullptr, gate.data(), ids.data(), weights.data(), nullptr}, {1, 0, 0, 0},
             1);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 2}));
  for (float weight : weights)
    EXPECT_FLOAT_EQ(weight, 1.0f / 3);
}

TEST_P(RouterKernelTest, ChoicesAreValidWhateverTheInputs) {
  const std::vector<Kernel> routers = compileRouters(), vectorRouters = compileVectorRouters();
  for (size_t i = 0; i < std::size(kCases); ++i) {
    const Case &c = kCases[i];
    for (float bad : {kNan, kInfinity, -kInfinity, std::numeric_limits<float>::max()})
      for (bool everywhere : {false, true}) {
        constexpr uint32_t kCount = 3;
        Inputs in(c, kCount, i);
        if (everywhere) {
          std::fill(in.x.begin(), in.x.end(), bad);
        } else {
          const auto elements = uint64_t(c.experts * c.features);
          static_cast<float *>(in.gate.data())[in.random.below(elements)] = bad;
          in.x[in.random.below(in.x.size())] = bad;
        }
        const Routes routes = route(routers[i], c, in, {kCount, 0, 0, 0});
        for (uint32_t t = 0; t < kCount; ++t) {
          std::set<int32_t> distinct;
          for (int64_t k = 0; k < c.topK; ++k) {
            const int32_t id = routes.ids[t * size_t(c.topK) + size_t(k)];
            EXPECT_TRUE(id >= 0 && id < c.experts) << id << " with " << bad;
            distinct.insert(id);
          }
          EXPECT_EQ(distinct.size(), size_t(c.topK)) << "with " << bad;
        }
        Groups groups(c, 1);
        Operands operand(1, c.features, c.forms);
        vectorRouters[i].run({in.x.data(), in.scale.data(), in.gate.data(), groups.begin.data(),
                              groups.token.data(), groups.weight.data(), operand.bytes.data()},
                             {1, 0, 0, 0}, 1);
        EXPECT_EQ(groups.begin.front(), 0u);
        EXPECT_EQ(groups.begin.back(), size_t(c.topK)) << "with " << bad;
        for (size_t e = 0; e < size_t(c.experts); ++e)
          EXPECT_LE(groups.begin[e + 1] - groups.begin[e], 1u) << "with " << bad;
        EXPECT_EQ(groups.token, std::vector<uint32_t>(size_t(c.topK)));
      }
  }
}

TEST_P(RouterKernelTest, OnlyTokensWhoseLogitsAreWantedAreRouted) {
  const std::vector<Kernel> routers = compileRouters(), groupers = compileGroups();
  for (size_t i = 0; i < std::size(kCases); ++i) {
    const Case &c = kCases[i];
    const Inputs in(c, 9, 200 + i);
    const Routes all = route(routers[i], c, in, {9, 0, 0, 0});
    for (uint32_t begin : {0, 1, 8, 9}) {
      const uint32_t first = c.logitsRows ? begin : 0;
      const moeplan_step step{9, begin, 0, 0};
      Routes expected = all;
      std::fill_n(expected.ids.begin(), first * c.topK, -1);
      std::fill_n(expected.weights.begin(), first * c.topK, -1.0f);
      std::fill_n(expected.operand.bytes.begin(), first * expected.operand.rowBytes(), char(0));
      const Routes actual = route(routers[i], c, in, step);
      EXPECT_EQ(actual.ids, expected.ids) << c.experts << " experts, from " << begin;
      EXPECT_EQ(actual.weights, expected.weights);
      EXPECT_EQ(actual.operand.bytes, expected.operand.bytes);
      // The ids before are not looked at.
      Groups groups(c, 9);
      moeplan_cpu_group_by_expert_reference(&step, 0, 1, actual.ids.data(), actual.weights.data(),
                                            groups.begin.data(), groups.token.data(),
                                            groups.weight.data(), c.experts, c.topK, c.logitsRows);
      EXPECT_EQ(group(groupers[i], c, actual, step), groups) << c.experts << " from " << begin;
      EXPECT_EQ(groups.begin.back(), size_t((9 - first) * c.topK));
    }
  }
}

TEST_P(RouterKernelTest, GroupingByExpertEqualsTheReference) {
  const std::vector<Kernel> kernels = compileGroups();
  for (size_t i = 0; i < std::size(kCases); ++i) {
    const Case &c = kCases[i];
    RandomNumbers random(i);
    for (uint32_t count : {1, 2, 3, 9, 33, 257}) {
      const moeplan_step step{count, 0, 0, 0};
      Routes routes(c, count);
      std::vector<int32_t> order(static_cast<size_t>(c.experts));
      std::iota(order.begin(), order.end(), 0);
      for (uint32_t t = 0; t < count; ++t) {
        for (size_t e = order.size(); e > 1; --e)
          std::swap(order[e - 1], order[random.below(e)]);
        std::copy_n(order.begin(), c.topK, routes.ids.begin() + t * c.topK);
      }
      routes.weights = random.floats(routes.ids.size());
      Groups expected(c, count);
      moeplan_cpu_group_by_expert_reference(&step, 0, 1, routes.ids.data(), routes.weights.data(),
                                            expected.begin.data(), expected.token.data(),
                                            expected.weight.data(), c.experts, c.topK, 0);
      EXPECT_EQ(group(kernels[i], c, routes, step), expected);
    }
  }
}

TEST_P(RouterKernelTest, ASingleTokenGetsWhatItGetsAmongMany) {
  const std::vector<Kernel> routers = compileRouters(), groupers = compileGroups(),
                            vectorRouters = compileVectorRouters();
  for (size_t i = 0; i < std::size(kCases); ++i) {
    const Case &c = kCases[i];
    for (uint32_t begin : {0, 1}) {
      const moeplan_step step{1, begin, 0, 0};
      const Inputs in(c, 1, 300 + i);
      const Routes routes = route(routers[i], c, in, step);
      const Groups expected = group(groupers[i], c, routes, step);
      Groups actual(c, 1), reference(c, 1);
      Operands operand(1, c.features, c.forms), ofReference = operand;
      vectorRouters[i].runInPieces({in.x.data(), in.scale.data(), in.gate.data(),
                                    actual.begin.data(), actual.token.data(), actual.weight.data(),
                                    operand.bytes.data()},
                                   step, 1);
      EXPECT_EQ(actual, expected) << c.experts << " experts, from " << begin;
      EXPECT_EQ(operand.bytes, routes.operand.bytes);
      moeplan_cpu_vector_router_reference(
          &step, 0, 1, in.x.data(), in.scale.data(), static_cast<const float *>(in.gate.data()),
          reference.begin.data(), reference.token.data(), reference.weight.data(),
          ofReference.bytes.data(), c.features, c.experts, c.topK, c.normalize, kEpsilon, c.forms,
          c.logitsRows);
      EXPECT_EQ(actual.begin, reference.begin);
      EXPECT_EQ(actual.token, reference.token);
    }
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(RouterKernelTest);

} // namespace
} // namespace moeplan::testing
