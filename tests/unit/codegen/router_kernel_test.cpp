#include "tests/unit/codegen/kernel_test.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

namespace moeplan::testing {
namespace {

struct Shape {
  int64_t features, experts, topK;
};

constexpr Shape kShapes[] = {{192, 6, 3}, {128, 8, 2}, {7, 5, 1}, {129, 3, 3}, {320, 1, 1}};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class RouterKernelTest : public KernelTest {
protected:
  std::vector<Kernel> compileRouters() {
    std::vector<Constants> all;
    for (Shape shape : kShapes)
      all.push_back(constants(shape));
    return compile("router", 5, all);
  }
  static Constants constants(Shape shape) {
    return {{"features", shape.features}, {"num_experts", shape.experts}, {"top_k", shape.topK}};
  }
};

TEST_P(RouterKernelTest, ChoicesAndWeightsEqualTheReference) {
  const std::vector<Kernel> kernels = compileRouters();
  for (size_t s = 0; s < std::size(kShapes); ++s) {
    const Shape shape = kShapes[s];
    RandomNumbers random(s);
    for (uint32_t count : {1, 2, 5, 9, 33}) {
      const moeplan_step step{count, 0, 0, 0};
      auto x = random.floats(size_t(count * shape.features));
      Weights gate(random, shape.experts, shape.features, MOEPLAN_FORMAT_F32);
      std::vector<float> scores(size_t(count * shape.experts)), expectedScores(scores.size());
      std::vector<int32_t> ids(size_t(count * shape.topK)), expectedIds(ids.size());
      std::vector<float> weights(ids.size()), expectedWeights(ids.size());
      moeplan_cpu_router_reference(
          &step, 0, count, x.data(), static_cast<const float *>(gate.data()), expectedScores.data(),
          expectedIds.data(), expectedWeights.data(), shape.features, shape.experts, shape.topK);
      kernels[s].runInPieces(
          {x.data(), gate.bytes.data(), scores.data(), ids.data(), weights.data()}, step, count);
      double bound = 0;
      for (uint32_t t = 0; t < count; ++t)
        for (int64_t e = 0; e < shape.experts; ++e) {
          const size_t i = t * size_t(shape.experts) + size_t(e);
          const double scoreBound = dotBound(gate, e, x.data() + t * shape.features);
          ASSERT_NEAR(scores[i], expectedScores[i], scoreBound);
          bound = std::max(bound, scoreBound);
        }
      // No two scores of these numbers are as near as their errors.
      EXPECT_EQ(ids, expectedIds) << shape.experts << " experts, " << count << " tokens";
      // A weight is a ratio of exponentials of score differences.
      for (size_t i = 0; i < weights.size(); ++i)
        ASSERT_NEAR(weights[i], expectedWeights[i],
                    expectedWeights[i] * (4 * bound + (12 + double(shape.topK)) * kUnitRoundoff));
    }
  }
}

TEST_P(RouterKernelTest, OfEqualScoresTheLowerIndexWins) {
  const Shape shape{7, 6, 3};
  const Kernel kernel = compileOne("router", 5, constants(shape));
  std::vector<float> x(7, 1.0f), gate(42, 0.5f), scores(6), weights(3);
  std::vector<int32_t> ids(3);
  kernel.run({x.data(), gate.data(), scores.data(), ids.data(), weights.data()}, {1, 0, 0, 0}, 1);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 2}));
  for (float weight : weights)
    EXPECT_FLOAT_EQ(weight, 1.0f / 3);
}

TEST_P(RouterKernelTest, ChoicesAreValidWhateverTheInputs) {
  const std::vector<Kernel> kernels = compileRouters();
  for (size_t s = 0; s < std::size(kShapes); ++s) {
    const Shape shape = kShapes[s];
    RandomNumbers random(s);
    for (float bad : {kNan, kInfinity, -kInfinity, std::numeric_limits<float>::max()})
      for (bool everywhere : {false, true}) {
        constexpr uint32_t kCount = 3;
        auto x = random.floats(kCount * size_t(shape.features));
        auto gate = random.floats(size_t(shape.experts * shape.features));
        if (everywhere)
          std::fill(x.begin(), x.end(), bad);
        else
          gate[random.below(gate.size())] = x[random.below(x.size())] = bad;
        std::vector<float> scores(kCount * size_t(shape.experts));
        std::vector<float> weights(kCount * size_t(shape.topK));
        std::vector<int32_t> ids(weights.size(), -1);
        kernels[s].run({x.data(), gate.data(), scores.data(), ids.data(), weights.data()},
                       {kCount, 0, 0, 0}, kCount);
        for (uint32_t t = 0; t < kCount; ++t) {
          std::set<int32_t> distinct;
          for (int64_t k = 0; k < shape.topK; ++k) {
            const int32_t id = ids[t * size_t(shape.topK) + size_t(k)];
            EXPECT_TRUE(id >= 0 && id < shape.experts) << id << " with " << bad;
            distinct.insert(id);
          }
          EXPECT_EQ(distinct.size(), size_t(shape.topK)) << "with " << bad;
        }
      }
  }
}

TEST_P(RouterKernelTest, GroupingByExpertEqualsTheReference) {
  std::vector<Constants> all;
  for (Shape shape : kShapes)
    all.push_back({{"num_experts", shape.experts}, {"top_k", shape.topK}});
  const std::vector<Kernel> kernels = compile("group_by_expert", 5, all);
  for (size_t s = 0; s < std::size(kShapes); ++s) {
    const Shape shape = kShapes[s];
    RandomNumbers random(s);
    for (uint32_t count : {1, 2, 3, 9, 33, 257}) {
      const moeplan_step step{count, 0, 0, 0};
      const auto pairs = count * size_t(shape.topK);
      std::vector<int32_t> ids;
      std::vector<int32_t> order(static_cast<size_t>(shape.experts));
      std::iota(order.begin(), order.end(), 0);
      while (ids.size() < pairs) {
        for (size_t i = order.size(); i > 1; --i)
          std::swap(order[i - 1], order[random.below(i)]);
        ids.insert(ids.end(), order.begin(), order.begin() + shape.topK);
      }
      auto weights = random.floats(pairs);
      std::vector<uint32_t> begin(size_t(shape.experts) + 1, 99), expectedBegin(begin.size());
      std::vector<uint32_t> token(pairs), expectedToken(pairs);
      std::vector<float> weight(pairs), expectedWeight(pairs);
      moeplan_cpu_group_by_expert_reference(&step, 0, 1, ids.data(), weights.data(),
                                            expectedBegin.data(), expectedToken.data(),
                                            expectedWeight.data(), shape.experts, shape.topK);
      kernels[s].runInPieces(
          {ids.data(), weights.data(), begin.data(), token.data(), weight.data()}, step, 1);
      EXPECT_EQ(begin, expectedBegin);
      EXPECT_EQ(token, expectedToken);
      EXPECT_EQ(weight, expectedWeight);
    }
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(RouterKernelTest);

} // namespace
} // namespace moeplan::testing
