#include "tests/unit/codegen/kernel_test.h"

namespace moeplan::testing {
namespace {

constexpr double kEpsilon = 1e-5;

/// One specialisation of `linear` and of `vector_linear`. No multiple of a vector, of a tile, or of
/// either; smaller than a vector; larger than a tile.
struct Case {
  int64_t in, out, rowsPerTile;
  moeplan_format format;
  int64_t forms, accumulate, normalize, logitsRows, prefetch, unroll;

  uint64_t tiles() const { return uint64_t((out + rowsPerTile - 1) / rowsPerTile); }
};
constexpr int64_t kQ8 = MOEPLAN_FORM_Q8, kBf16 = MOEPLAN_FORM_BF16;
constexpr Case kCases[] = {{1, 1, 1, MOEPLAN_FORMAT_F32, MOEPLAN_FORM_F32, 0, 0, 0, 0, 1},
                           {129, 33, 5, MOEPLAN_FORMAT_F32, kAllForms, 1, 1, 1, 4096, 1},
                           {7, 5, 5, MOEPLAN_FORMAT_BF16, kBf16, 1, 1, 1, 0, 1},
                           {129, 33, 48, MOEPLAN_FORMAT_BF16, kAllForms, 0, 0, 0, 4096, 2},
                           {320, 50, 16, MOEPLAN_FORMAT_BF16, kBf16, 0, 1, 0, 0, 1},
                           // Every packed format; rows in tiles of 16 or all at once, columns that
                           // are no multiple of a block, of a group, or of either.
                           {160, 16, 16, MOEPLAN_FORMAT_INT8G32, kQ8, 0, 0, 0, 0, 1},
                           {129, 20, 32, MOEPLAN_FORMAT_INT8G64, kAllForms, 1, 1, 0, 4096, 1},
                           {320, 33, 64, MOEPLAN_FORMAT_INT8G128, kQ8, 0, 0, 1, 0, 1},
                           {192, 50, 32, MOEPLAN_FORMAT_INT4G32, kAllForms, 0, 1, 1, 4096, 2},
                           {96, 17, 16, MOEPLAN_FORMAT_INT4G64, kQ8, 1, 0, 0, 0, 1},
                           {7, 5, 5, MOEPLAN_FORMAT_INT4G128, kAllForms, 0, 1, 0, 0, 1},
                           {129, 33, 48, MOEPLAN_FORMAT_INT3G32, kQ8, 1, 1, 1, 4096, 2},
                           {320, 40, 16, MOEPLAN_FORMAT_INT3G64, kAllForms, 0, 0, 0, 0, 1},
                           {300, 33, 64, MOEPLAN_FORMAT_INT3G128, kQ8, 0, 1, 0, 4096, 1},
                           {33, 7, 7, MOEPLAN_FORMAT_INT2G32, kAllForms, 0, 0, 1, 0, 1},
                           {256, 40, 16, MOEPLAN_FORMAT_INT2G64, kQ8, 1, 1, 0, 0, 1},
                           {130, 1, 1, MOEPLAN_FORMAT_INT2G128, kAllForms, 0, 0, 0, 4096, 1}};

constexpr uint32_t kMostTokens = kTokenCounts[0];

std::string describe(const Case &c) {
  return std::string(findFormat(uint32_t(c.format))->name) + " " + std::to_string(c.in) + " x " +
         std::to_string(c.out);
}

class LinearKernelTest : public KernelTest {
protected:
  /// Those of this target: the group sizes of one bit width share their code, so that beside the
  /// host each has one of them.
  void SetUp() override {
    KernelTest::SetUp();
    const auto turn = std::find(std::begin(kKernelTargets), std::end(kKernelTargets),
                                std::string_view(GetParam())) -
                      std::begin(kKernelTargets);
    for (const Case &c : kCases)
      if (isHost() || !moeplan_format_is_packed(c.format) ||
          (c.format - MOEPLAN_FORMAT_INT8G32) % 3 == turn % 3)
        cases.push_back(c);
  }

  std::vector<Kernel> compileLinear() {
    std::vector<Constants> all;
    for (const Case &c : cases)
      all.push_back({{"in_features", c.in},
                     {"out_features", c.out},
                     {"weight_format", int64_t(c.format)},
                     {"x_forms", c.forms},
                     {"rows_per_tile", c.rowsPerTile},
                     {"accumulate", c.accumulate},
                     {"logits_rows", c.logitsRows},
                     {"prefetch", c.prefetch},
                     {"unroll", c.unroll}});
    return compile("linear", 3, all);
  }
  /// Unrolled further: no result depends on that.
  std::vector<Kernel> compileVectorLinear() {
    std::vector<Constants> all;
    for (const Case &c : cases)
      all.push_back({{"in_features", c.in},
                     {"out_features", c.out},
                     {"normalize", c.normalize},
                     {"epsilon", kEpsilon},
                     {"weight_format", int64_t(c.format)},
                     {"rows_per_tile", c.rowsPerTile},
                     {"accumulate", c.accumulate},
                     {"logits_rows", c.logitsRows},
                     {"prefetch", c.prefetch},
                     {"unroll", c.unroll * c.unroll}});
    return compile("vector_linear", 4, all);
  }
  std::vector<Kernel> compileOperand() {
    std::vector<Constants> all;
    for (const Case &c : cases)
      all.push_back({{"features", c.in},
                     {"normalize", c.normalize},
                     {"epsilon", kEpsilon},
                     {"forms", c.forms},
                     {"logits_rows", int64_t(0)}});
    return compile("operand", 3, all);
  }

  std::vector<Case> cases;
};

TEST_P(LinearKernelTest, ProductsEqualTheReference) {
  const std::vector<Kernel> kernels = compileLinear();
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case &c = cases[i];
    RandomNumbers random(i);
    const Weights w(random, c.out, c.in, c.format);
    const Operands x(random.floats(size_t(kMostTokens * c.in)), c.in, c.forms);
    const std::vector<float> before = random.floats(size_t(kMostTokens * c.out));
    std::vector<float> expected = before, actual = before;
    const moeplan_step step{kMostTokens, 0, 0, 0};
    moeplan_cpu_linear_reference(&step, 0, c.tiles(), x.bytes.data(), w.data(), expected.data(),
                                 c.in, c.out, c.format, c.forms, c.rowsPerTile, c.accumulate,
                                 c.logitsRows, c.prefetch, c.unroll);
    kernels[i].run({x.bytes.data(), w.data(), actual.data()}, step, c.tiles());
    for (int64_t t = 0; t < kMostTokens; ++t)
      for (int64_t n = 0; n < c.out; ++n) {
        const auto at = size_t(t * c.out + n);
        const double product = expected[at] - (c.accumulate ? before[at] : 0);
        const double bound =
            dotBound(w, n, x, t) +
            (c.accumulate ? 2 * kUnitRoundoff * (std::abs(product) + std::abs(expected[at])) : 0);
        ASSERT_NEAR(actual[at], expected[at], bound)
            << describe(c) << ", token " << t << ", feature " << n;
      }
  }
}

TEST_P(LinearKernelTest, ATokensResultDependsNeitherOnItsNeighboursNorOnThePieces) {
  const std::vector<Kernel> kernels = compileLinear();
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case &c = cases[i];
    RandomNumbers random(100 + i);
    const Weights w(random, c.out, c.in, c.format);
    Operands x(random.floats(size_t(kMostTokens * c.in)), c.in, c.forms);
    const std::vector<float> before = random.floats(size_t(kMostTokens * c.out));
    std::vector<float> all = before;
    kernels[i].run({x.bytes.data(), w.data(), all.data()}, {kMostTokens, 0, 0, 0}, c.tiles());
    for (uint32_t count : kTokenCounts) {
      const uint32_t first = (kMostTokens - count) / 2;
      std::vector<float> part = before;
      kernels[i].runInPieces({x.row(first), w.data(), part.data() + first * c.out},
                             {count, 0, 0, 0}, c.tiles());
      for (uint32_t t = 0; t < kMostTokens; ++t) {
        const bool computed = t >= first && t < first + count;
        ASSERT_EQ(std::memcmp(part.data() + t * c.out, (computed ? all : before).data() + t * c.out,
                              size_t(c.out) * sizeof(float)),
                  0)
            << describe(c) << ", token " << t << " of " << first << " and " << count << " more";
      }
    }
  }
}

TEST_P(LinearKernelTest, OnlyRequestedRowsOfLogitsAreTouched) {
  const std::vector<Kernel> kernels = compileLinear();
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case &c = cases[i];
    if (!c.logitsRows)
      continue;
    RandomNumbers random(200 + i);
    const Weights w(random, c.out, c.in, c.format);
    const Operands x(random.floats(size_t(9 * c.in)), c.in, c.forms);
    const std::vector<float> before = random.floats(size_t(9 * c.out));
    std::vector<float> all = before;
    kernels[i].run({x.bytes.data(), w.data(), all.data()}, {9, 0, 0, 0}, c.tiles());
    for (uint32_t begin : {1, 5, 8, 9}) {
      std::vector<float> expected = all, actual = before;
      std::copy_n(before.begin(), begin * c.out, expected.begin());
      kernels[i].run({x.bytes.data(), w.data(), actual.data()}, {9, begin, 0, 0}, c.tiles());
      EXPECT_EQ(actual, expected) << describe(c) << ", rows from " << begin;
    }
  }
}

TEST_P(LinearKernelTest, ASingleTokenGetsWhatItGetsAmongMany) {
  const std::vector<Kernel> operands = compileOperand(), many = compileLinear(),
                            single = compileVectorLinear();
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case &c = cases[i];
    constexpr uint32_t kTokens = 6;
    RandomNumbers random(300 + i);
    const Weights w(random, c.out, c.in, c.format);
    const std::vector<float> x = random.floats(size_t(kTokens * c.in)),
                             scale = random.floats(size_t(c.in)),
                             before = random.floats(size_t(kTokens * c.out));
    Operands operand(kTokens, c.in, c.forms);
    std::vector<float> expected = before, actual = before;
    const moeplan_step step{kTokens, 0, 0, 0};
    operands[i].run({x.data(), scale.data(), operand.bytes.data()}, step, kTokens);
    many[i].run({operand.bytes.data(), w.data(), expected.data()}, step, c.tiles());
    for (uint32_t t = 0; t < kTokens; ++t)
      single[i].runInPieces(
          {x.data() + t * c.in, scale.data(), w.data(), actual.data() + t * c.out}, {1, 0, 0, 0},
          c.tiles());
    EXPECT_EQ(actual, expected) << describe(c);
    if (!c.logitsRows)
      continue;
    actual = before; // no logits are wanted
    single[i].run({x.data(), scale.data(), w.data(), actual.data()}, {1, 1, 0, 0}, c.tiles());
    EXPECT_EQ(actual, before) << describe(c);
  }
}

TEST_P(LinearKernelTest, TheProjectionsOfAttentionAreThreeVectorProducts) {
  struct {
    int64_t in, q, kv, rowsPerTile;
    moeplan_format format;
  } const shapes[] = {{129, 48, 24, 16, MOEPLAN_FORMAT_BF16},
                      {70, 33, 7, 5, MOEPLAN_FORMAT_F32},
                      {160, 40, 20, 32, MOEPLAN_FORMAT_INT4G64}};
  std::vector<Constants> fused, apart;
  for (const auto &c : shapes) {
    fused.push_back({{"in_features", c.in},
                     {"q_features", c.q},
                     {"kv_features", c.kv},
                     {"normalize", int64_t(1)},
                     {"epsilon", kEpsilon},
                     {"weight_format", int64_t(c.format)},
                     {"rows_per_tile", c.rowsPerTile},
                     {"prefetch", int64_t(0)},
                     {"unroll", int64_t(1)}});
    for (int64_t out : {c.q, c.kv})
      apart.push_back({{"in_features", c.in},
                       {"out_features", out},
                       {"normalize", int64_t(1)},
                       {"epsilon", kEpsilon},
                       {"weight_format", int64_t(c.format)},
                       {"rows_per_tile", c.rowsPerTile},
                       {"accumulate", int64_t(0)},
                       {"logits_rows", int64_t(0)},
                       {"prefetch", int64_t(0)},
                       {"unroll", int64_t(1)}});
  }
  const std::vector<Kernel> qkv = compile("vector_qkv", 8, fused),
                            linear = compile("vector_linear", 4, apart);
  const moeplan_step step{1, 0, 0, 0};
  for (size_t i = 0; i < std::size(shapes); ++i) {
    const auto &c = shapes[i];
    RandomNumbers random(400 + i);
    const Weights weights[] = {{random, c.q, c.in, c.format},
                               {random, c.kv, c.in, c.format},
                               {random, c.kv, c.in, c.format}};
    const std::vector<float> x = random.floats(size_t(c.in)), scale = random.floats(size_t(c.in));
    auto tiles = [&](int64_t rows) { return uint64_t((rows + c.rowsPerTile - 1) / c.rowsPerTile); };
    std::vector<float> expected[3], actual[3], reference[3];
    for (size_t part = 0; part < 3; ++part) {
      const int64_t rows = part ? c.kv : c.q;
      for (auto *out : {&expected[part], &actual[part], &reference[part]})
        out->resize(size_t(rows));
      linear[2 * i + (part ? 1 : 0)].run(
          {x.data(), scale.data(), weights[part].data(), expected[part].data()}, step, tiles(rows));
    }
    const uint64_t all = tiles(c.q) + 2 * tiles(c.kv);
    qkv[i].runInPieces({x.data(), scale.data(), weights[0].data(), weights[1].data(),
                        weights[2].data(), actual[0].data(), actual[1].data(), actual[2].data()},
                       step, all);
    moeplan_cpu_vector_qkv_reference(&step, 0, all, x.data(), scale.data(), weights[0].data(),
                                     weights[1].data(), weights[2].data(), reference[0].data(),
                                     reference[1].data(), reference[2].data(), c.in, c.q, c.kv, 1,
                                     kEpsilon, c.format, c.rowsPerTile, 0, 2);
    for (size_t part = 0; part < 3; ++part) {
      EXPECT_EQ(actual[part], expected[part]) << "part " << part;
      // A rounding of the norm may tip an activation to the next number of its form.
      for (size_t n = 0; n < actual[part].size(); ++n)
        EXPECT_NEAR(actual[part][n], reference[part][n], 0.05) << "part " << part << ", row " << n;
    }
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(LinearKernelTest);

} // namespace
} // namespace moeplan::testing
