// Operands against their definition in kernels/cpu/operand.h rather than against the reference:
// where a product of 127.5 / 127 falls between two codes, either is right.
#include "tests/unit/codegen/kernel_test.h"

#include <cmath>
#include <limits>

namespace moeplan::testing {
namespace {

constexpr double kEpsilon = 1e-5;
constexpr int64_t kFeatures[] = {1, 7, 33, 64, 129, 320};
constexpr uint32_t kTokens = 5;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Constants constants(int64_t features, int64_t normalize, int64_t forms, int64_t logitsRows) {
  return {{"features", features},
          {"normalize", normalize},
          {"epsilon", kEpsilon},
          {"forms", forms},
          {"logits_rows", logitsRows}};
}

std::vector<float> rowOf(const std::vector<float> &x, int64_t token, int64_t features) {
  return {x.begin() + token * features, x.begin() + (token + 1) * features};
}

class OperandKernelTest : public KernelTest {};

TEST_P(OperandKernelTest, FormsAreWhatTheirDefinitionSays) {
  std::vector<Constants> all;
  for (int64_t features : kFeatures)
    all.push_back(constants(features, 0, kAllForms, 0));
  const std::vector<Kernel> kernels = compile("operand", 3, all);
  for (size_t i = 0; i < std::size(kFeatures); ++i) {
    const int64_t features = kFeatures[i];
    RandomNumbers random(i);
    // Rows of all sizes, and columns that differ from their neighbours by orders of magnitude.
    for (float size : {1.0f, 1e-3f, 3e4f, 1e-30f, 2e-35f, 1e30f, 3e38f}) {
      std::vector<float> x = random.floats(size_t(kTokens * features));
      for (float &value : x)
        value *= size * (random.below(4) ? 1.0f : 1e-2f);
      Operands actual(kTokens, features, kAllForms);
      kernels[i].runInPieces({x.data(), nullptr, actual.bytes.data()}, {kTokens, 0, 0, 0}, kTokens);
      const Operands reference(x, features, kAllForms);
      for (uint32_t t = 0; t < kTokens; ++t) {
        EXPECT_TRUE(isOperandOf(actual, t, rowOf(x, t, features))) << features << " times " << size;
        EXPECT_TRUE(isOperandOf(reference, t, rowOf(x, t, features)))
            << "the reference, " << features << " times " << size;
      }
    }
  }
}

TEST_P(OperandKernelTest, AFormIsTheSameAloneAndBesideOthers) {
  constexpr int64_t kColumns = 129;
  const int64_t sets[] = {MOEPLAN_FORM_F32, MOEPLAN_FORM_BF16, MOEPLAN_FORM_Q8,
                          MOEPLAN_FORM_F32 | MOEPLAN_FORM_Q8, MOEPLAN_FORM_BF16 | MOEPLAN_FORM_Q8};
  std::vector<Constants> all{constants(kColumns, 1, kAllForms, 0)};
  for (int64_t forms : sets)
    all.push_back(constants(kColumns, 1, forms, 0));
  const std::vector<Kernel> kernels = compile("operand", 3, all);
  RandomNumbers random(1);
  const std::vector<float> x = random.floats(kTokens * kColumns), scale = random.floats(kColumns);
  Operands together(kTokens, kColumns, kAllForms);
  const moeplan_step step{kTokens, 0, 0, 0};
  kernels[0].run({x.data(), scale.data(), together.bytes.data()}, step, kTokens);
  for (size_t i = 0; i < std::size(sets); ++i) {
    Operands some(kTokens, kColumns, sets[i]);
    kernels[i + 1].runInPieces({x.data(), scale.data(), some.bytes.data()}, step, kTokens);
    for (int64_t form : {MOEPLAN_FORM_F32, MOEPLAN_FORM_BF16, MOEPLAN_FORM_Q8})
      if (sets[i] & form) {
        EXPECT_EQ(some.only(form).bytes, together.only(form).bytes)
            << "form " << form << " in " << sets[i];
      }
  }
}

TEST_P(OperandKernelTest, NormalisedRowsEqualTheReference) {
  std::vector<Constants> all;
  for (int64_t features : kFeatures)
    all.push_back(constants(features, 1, kAllForms, 1));
  const std::vector<Kernel> kernels = compile("operand", 3, all);
  for (size_t i = 0; i < std::size(kFeatures); ++i) {
    const int64_t features = kFeatures[i];
    RandomNumbers random(100 + i);
    const std::vector<float> x = random.floats(size_t(kTokens * features)),
                             scale = random.floats(size_t(features));
    for (uint32_t begin : {0u, 2u, kTokens}) {
      const moeplan_step step{kTokens, begin, 0, 0};
      std::vector<float> expected(x.size());
      moeplan_cpu_rms_norm_reference(&step, 0, kTokens, x.data(), scale.data(), expected.data(),
                                     features, kEpsilon, 0);
      Operands actual(kTokens, features, kAllForms);
      std::fill(actual.bytes.begin(), actual.bytes.end(), char(0x55));
      const Operands before = actual;
      kernels[i].runInPieces({x.data(), scale.data(), actual.bytes.data()}, step, kTokens);
      EXPECT_TRUE(std::equal(actual.bytes.begin(), actual.bytes.begin() + begin * actual.rowBytes(),
                             before.bytes.begin()))
          << "rows that were not asked for";
      for (uint32_t t = begin; t < kTokens; ++t) {
        const std::vector<float> row = actual.f32(t);
        for (int64_t k = 0; k < features; ++k) {
          const double reference = expected[size_t(t * features + k)];
          ASSERT_NEAR(row[size_t(k)], reference, normBound(features) * std::abs(reference))
              << features << " features, token " << t << ", column " << k;
        }
        EXPECT_TRUE(isOperandOf(actual, t, row)) << features << " features, token " << t;
      }
    }
  }
}

TEST_P(OperandKernelTest, ZerosSubnormalsAndWhatIsNotFinite) {
  constexpr int64_t kColumns = 129;
  const Kernel kernel = compileOne("operand", 3, constants(kColumns, 0, kAllForms, 0));
  RandomNumbers random(2);
  auto operandOf = [&](const std::vector<float> &x) {
    Operands operand(1, kColumns, kAllForms);
    kernel.run({x.data(), nullptr, operand.bytes.data()}, {1, 0, 0, 0}, 1);
    return operand;
  };
  for (float value : {0.0f, -0.0f, 0x1p-149f, -0x1p-127f, 0x1p-126f, 1e-35f, 1.0f, -1.0f}) {
    const std::vector<float> x(kColumns, value);
    EXPECT_TRUE(isOperandOf(operandOf(x), 0, x)) << value;
  }
  EXPECT_EQ(operandOf(std::vector<float>(kColumns)).only(MOEPLAN_FORM_Q8).bytes,
            std::vector<char>(size_t(moeplan_operand_bytes(MOEPLAN_FORM_Q8, kColumns))));
  // In any lane, in a whole block and in the last, short one; a block without stays as it is.
  for (float bad : {kInfinity, -kInfinity, kNan, -kNan})
    for (int64_t at : {0, 1, 15, 31, 32, 63, 64, 100, 128}) {
      std::vector<float> x = random.floats(kColumns);
      x[size_t(at)] = bad;
      const Operands operand = operandOf(x);
      EXPECT_TRUE(isOperandOf(operand, 0, x)) << bad << " at " << at;
      EXPECT_TRUE(isOperandOf(Operands(x, kColumns, kAllForms), 0, x))
          << "the reference, " << bad << " at " << at;
      for (int64_t block = 0; block * MOEPLAN_BLOCK_COLUMNS < kColumns; ++block) {
        const bool hit = block * MOEPLAN_BLOCK_COLUMNS / MOEPLAN_ACTIVATION_BLOCK ==
                         at / MOEPLAN_ACTIVATION_BLOCK;
        EXPECT_EQ(std::isfinite(operand.q8(0, block).scale), !hit) << bad << " at " << at;
      }
    }
}

TEST_P(OperandKernelTest, ProductsOfWhatIsNotFiniteAreNotFinite) {
  constexpr int64_t kColumns = 129, kRows = 17;
  const Kernel kernel = compileOne("vector_linear", 4,
                                   {{"in_features", kColumns},
                                    {"out_features", kRows},
                                    {"normalize", int64_t(0)},
                                    {"epsilon", kEpsilon},
                                    {"weight_format", int64_t(MOEPLAN_FORMAT_INT4G32)},
                                    {"rows_per_tile", kRows},
                                    {"accumulate", int64_t(0)},
                                    {"logits_rows", int64_t(0)},
                                    {"prefetch", int64_t(0)},
                                    {"unroll", int64_t(1)}});
  RandomNumbers random(3);
  const Weights w(random, kRows, kColumns, MOEPLAN_FORMAT_INT4G32);
  for (float bad : {kInfinity, -kInfinity, kNan}) {
    std::vector<float> x = random.floats(kColumns), y(kRows);
    x[77] = bad;
    kernel.run({x.data(), nullptr, w.data(), y.data()}, {1, 0, 0, 0}, 1);
    for (float value : y)
      EXPECT_FALSE(std::isfinite(value)) << "with " << bad;
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(OperandKernelTest);

} // namespace
} // namespace moeplan::testing
