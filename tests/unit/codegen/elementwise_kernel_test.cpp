#include "tests/unit/codegen/kernel_test.h"

namespace moeplan::testing {
namespace {

constexpr int64_t kFeatures[] = {1, 7, 129, 192, 320};

class ElementwiseKernelTest : public KernelTest {};

TEST_P(ElementwiseKernelTest, EmbeddingCopiesRowsExactly) {
  constexpr int64_t kRows = 50;
  constexpr moeplan_format kFormats[] = {MOEPLAN_FORMAT_F32,     MOEPLAN_FORMAT_BF16,
                                         MOEPLAN_FORMAT_INT8G64, MOEPLAN_FORMAT_INT4G32,
                                         MOEPLAN_FORMAT_INT3G32, MOEPLAN_FORMAT_INT2G128};
  std::vector<Constants> all;
  for (int64_t features : kFeatures)
    for (int64_t format : kFormats)
      all.push_back({{"features", features}, {"vocab_size", kRows}, {"weight_format", format}});
  const std::vector<Kernel> kernels = compile("embedding", 3, all);
  size_t next = 0;
  RandomNumbers random(1);
  for (int64_t features : kFeatures)
    for (moeplan_format format : kFormats) {
      const Kernel &kernel = kernels[next++];
      const Weights table(random, kRows, features, format);
      std::vector<int32_t> tokens{0, kRows - 1};
      for (uint32_t count : {1, 2, 9, 33}) {
        while (tokens.size() < count)
          tokens.push_back(int32_t(random.below(kRows)));
        const moeplan_step step{count, 0, 0, 0};
        std::vector<float> expected(size_t(count * features)), actual(expected.size());
        moeplan_cpu_embedding_reference(&step, 0, count, tokens.data(), table.data(),
                                        expected.data(), features, kRows, format);
        kernel.runInPieces({tokens.data(), table.data(), actual.data()}, step, count);
        EXPECT_EQ(actual, expected) << features << " features, " << count << " tokens";
      }
    }
}

TEST_P(ElementwiseKernelTest, AddIsExactAndMayBeInPlace) {
  std::vector<Constants> all;
  for (int64_t features : kFeatures)
    all.push_back({{"features", features}});
  const std::vector<Kernel> kernels = compile("add", 3, all);
  size_t next = 0;
  RandomNumbers random(2);
  for (int64_t features : kFeatures) {
    const Kernel &kernel = kernels[next++];
    const uint32_t count = 9;
    const moeplan_step step{count, 0, 0, 0};
    auto x = random.floats(size_t(count * features)), z = random.floats(x.size());
    std::vector<float> expected(x.size()), actual(x.size());
    moeplan_cpu_add_reference(&step, 0, count, x.data(), z.data(), expected.data(), features);
    kernel.runInPieces({x.data(), z.data(), actual.data()}, step, count);
    EXPECT_EQ(actual, expected) << features << " features";
    kernel.run({x.data(), z.data(), x.data()}, step, count);
    EXPECT_EQ(x, expected) << features << " features, in place";
  }
}

TEST_P(ElementwiseKernelTest, RmsNormEqualsTheReference) {
  std::vector<Constants> all;
  for (int64_t features : kFeatures)
    for (int64_t logitsRows : {0, 1})
      all.push_back({{"features", features}, {"epsilon", 1e-5}, {"logits_rows", logitsRows}});
  const std::vector<Kernel> kernels = compile("rms_norm", 3, all);
  size_t next = 0;
  RandomNumbers random(3);
  for (int64_t features : kFeatures)
    for (int64_t logitsRows : {0, 1}) {
      const Kernel &kernel = kernels[next++];
      const uint32_t count = 9;
      const moeplan_step step{count, 4, 0, 0};
      auto x = random.floats(size_t(count * features)), weight = random.floats(size_t(features));
      const std::vector<float> before = random.floats(x.size());
      std::vector<float> expected = before, actual = before;
      moeplan_cpu_rms_norm_reference(&step, 0, count, x.data(), weight.data(), expected.data(),
                                     features, 1e-5, logitsRows);
      kernel.run({x.data(), weight.data(), actual.data()}, step, count);
      for (size_t i = 0; i < actual.size(); ++i)
        ASSERT_NEAR(actual[i], expected[i], normBound(features) * std::abs(expected[i]))
            << features << " features, element " << i;
      if (logitsRows) {
        EXPECT_TRUE(std::equal(before.begin(), before.begin() + 4 * features, actual.begin()));
      }
      expectPiecesGiveTheSameBytes<float>(before, [&](float *out, bool inPieces) {
        const std::vector<const void *> bindings{x.data(), weight.data(), out};
        inPieces ? kernel.runInPieces(bindings, step, count) : kernel.run(bindings, step, count);
      });
    }
}

TEST_P(ElementwiseKernelTest, RmsNormOfZerosIsZero) {
  const Kernel kernel = compileOne(
      "rms_norm", 3, {{"features", int64_t(7)}, {"epsilon", 1e-5}, {"logits_rows", int64_t(0)}});
  std::vector<float> x(7), weight(7, 1.0f), out(7, 1.0f);
  kernel.run({x.data(), weight.data(), out.data()}, {1, 0, 0, 0}, 1);
  EXPECT_EQ(out, x);
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(ElementwiseKernelTest);

} // namespace
} // namespace moeplan::testing
