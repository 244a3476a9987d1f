#include "tests/unit/codegen/kernel_test.h"

#include <cmath>
#include <span>

namespace moeplan::testing {
namespace {

struct Shape {
  int64_t features, intermediate, experts, topK, upRowsPerTile, downRowsPerTile;
};

constexpr int64_t bit(moeplan_format format) { return int64_t(1) << format; }
/// All bit widths are in one of the sets: two group sizes of one, one of another.
constexpr int64_t kF32 = bit(MOEPLAN_FORMAT_F32),
                  kMixed = bit(MOEPLAN_FORMAT_BF16) | bit(MOEPLAN_FORMAT_INT3G64) |
                           bit(MOEPLAN_FORMAT_INT2G32),
                  kWide = bit(MOEPLAN_FORMAT_INT8G64) | bit(MOEPLAN_FORMAT_INT4G32) |
                          bit(MOEPLAN_FORMAT_INT4G128);

/// One specialisation; each format takes long to compile, so that each is in one of them.
struct Case {
  Shape shape;
  int64_t formats, xForms, hForms, accumulate, prefetch, unroll;
};
constexpr Case kCases[] = {
    {{7, 129, 3, 2, 129, 5}, kF32, MOEPLAN_FORM_F32, MOEPLAN_FORM_F32, 0, 0, 1},
    {{33, 140, 4, 4, 128, 48}, kMixed, kAllForms, kAllForms, 1, 0, 1},
    // On the host alone.
    {{192, 320, 6, 3, 128, 32}, kWide, MOEPLAN_FORM_Q8, kAllForms, 0, 4096, 2}};

/// A layer's experts, in formats drawn from a set, and tokens routed to them.
struct Layer {
  Layer(Shape shape, int64_t formats, uint64_t seed) : shape(shape), random(seed) {
    std::vector<moeplan_format> set;
    for (const FormatInfo &info : kFormats)
      if (formats >> info.id & 1)
        set.push_back(info.id);
    auto format = [&] { return set[random.below(set.size())]; };
    for (int64_t e = 0; e < shape.experts; ++e) {
      w1.emplace_back(random, shape.intermediate, shape.features, format());
      w3.emplace_back(random, shape.intermediate, shape.features, format());
      w2.emplace_back(random, shape.features, shape.intermediate, format());
    }
    for (size_t e = 0; e < w1.size(); ++e)
      table.push_back({w1[e].data(), w3[e].data(), w2[e].data(), uint16_t(w1[e].format),
                       uint16_t(w3[e].format), uint16_t(w2[e].format), 0});
  }

  Shape shape;
  RandomNumbers random;
  std::vector<Weights> w1, w3, w2;
  std::vector<moeplan_expert> table;
};

/// Which tokens go to which expert, as group_by_expert puts it.
struct Routing {
  Routing(Shape shape, uint32_t tokens, RandomNumbers &random) {
    // Each token goes to topK experts in a row; the first expert is skipped by most, so that some
    // experts have no token, some one, some many.
    std::vector<int32_t> ids;
    for (uint32_t t = 0; t < tokens; ++t) {
      const int64_t first = t == 0 ? 0 : int64_t(random.below(uint64_t(shape.experts)));
      for (int64_t k = 0; k < shape.topK; ++k)
        ids.push_back(int32_t((first + k) % shape.experts));
    }
    const std::vector<float> weights = random.floats(ids.size());
    begin.resize(size_t(shape.experts) + 1);
    slotToken.resize(ids.size());
    slotWeight.resize(ids.size());
    const moeplan_step step{tokens, 0, 0, 0};
    moeplan_cpu_group_by_expert_reference(&step, 0, 1, ids.data(), weights.data(), begin.data(),
                                          slotToken.data(), slotWeight.data(), shape.experts,
                                          shape.topK, 0);
  }

  size_t slots() const { return slotToken.size(); }
  size_t expertOf(size_t slot) const {
    size_t e = 0;
    while (begin[e + 1] <= slot)
      ++e;
    return e;
  }

  std::vector<uint32_t> begin, slotToken;
  std::vector<float> slotWeight;
};

uint64_t tilesOf(int64_t rows, int64_t rowsPerTile) {
  return uint64_t((rows + rowsPerTile - 1) / rowsPerTile);
}

class ExpertsKernelTest : public KernelTest {
protected:
  std::span<const Case> cases() const {
    return std::span(kCases).first(isHost() ? std::size(kCases) : std::size(kCases) - 1);
  }
  Constants gateUp(const Case &c, int64_t hForms, int64_t maxTokens) {
    return {{"features", c.shape.features},
            {"intermediate", c.shape.intermediate},
            {"num_experts", c.shape.experts},
            {"formats", c.formats},
            {"x_forms", c.xForms},
            {"h_forms", hForms},
            {"rows_per_tile", c.shape.upRowsPerTile},
            {"max_tokens", maxTokens},
            {"prefetch", c.prefetch},
            {"unroll", maxTokens ? 1 : c.unroll}};
  }
  Constants down(const Case &c, int64_t maxTokens) {
    return {{"features", c.shape.features},
            {"intermediate", c.shape.intermediate},
            {"num_experts", c.shape.experts},
            {"formats", c.formats},
            {"h_forms", c.hForms},
            {"rows_per_tile", c.shape.downRowsPerTile},
            {"accumulate", c.accumulate},
            {"max_tokens", maxTokens},
            {"prefetch", c.prefetch},
            {"unroll", maxTokens ? 1 : c.unroll}};
  }
  static Operands runGateUp(const Kernel &kernel, const Case &c, const Layer &layer,
                            const Routing &routing, const Operands &x, int64_t hForms,
                            bool inPieces = false) {
    Operands h(int64_t(routing.slots()), c.shape.intermediate, hForms);
    const std::vector<const void *> bindings{x.bytes.data(), layer.table.data(),
                                             routing.begin.data(), routing.slotToken.data(),
                                             h.bytes.data()};
    const uint64_t tiles = tilesOf(c.shape.intermediate, c.shape.upRowsPerTile);
    const moeplan_step step{uint32_t(x.rows), 0, 0, 0};
    inPieces ? kernel.runInPieces(bindings, step, tiles) : kernel.run(bindings, step, tiles);
    return h;
  }
  static std::vector<float> runDown(const Kernel &kernel, const Case &c, const Layer &layer,
                                    const Routing &routing, const Operands &h, std::vector<float> y,
                                    bool inPieces = false) {
    const std::vector<const void *> bindings{
        h.bytes.data(),           layer.table.data(),        routing.begin.data(),
        routing.slotToken.data(), routing.slotWeight.data(), y.data()};
    const uint64_t tiles = tilesOf(c.shape.features, c.shape.downRowsPerTile);
    const moeplan_step step{uint32_t(y.size()) / uint32_t(c.shape.features), 0, 0, 0};
    inPieces ? kernel.runInPieces(bindings, step, tiles) : kernel.run(bindings, step, tiles);
    return y;
  }

  void checkGateUp(const Case &c, const Layer &layer, const Routing &routing, const Operands &x,
                   const Operands &actual) {
    const Shape &shape = c.shape;
    Operands expected(actual.rows, shape.intermediate, c.hForms);
    const moeplan_step step{uint32_t(x.rows), 0, 0, 0};
    moeplan_cpu_experts_gate_up_reference(
        &step, 0, tilesOf(shape.intermediate, shape.upRowsPerTile), x.bytes.data(),
        layer.table.data(), routing.begin.data(), routing.slotToken.data(), expected.bytes.data(),
        shape.features, shape.intermediate, shape.experts, c.formats, c.xForms, c.hForms,
        shape.upRowsPerTile, 0, 0, 1);
    for (size_t slot = 0; slot < routing.slots(); ++slot) {
      const size_t e = routing.expertOf(slot);
      const int64_t token = routing.slotToken[slot];
      const std::vector<float> row = actual.f32(int64_t(slot)),
                               reference = expected.f32(int64_t(slot));
      for (int64_t n = 0; n < shape.intermediate; ++n) {
        const Weights &w1 = layer.w1[e], &w3 = layer.w3[e];
        double gate = 0, up = 0;
        for (int64_t k = 0; k < shape.features; ++k) {
          gate += x.at(token, k, moeplan_form_of(w1.format)) * w1.at(n, k);
          up += x.at(token, k, moeplan_form_of(w3.format)) * w3.at(n, k);
        }
        // |silu'| <= 1.1; silu itself takes an exponential, a sum and a division, which is a few
        // roundings and, for a large gate, an argument rounded relative to its size.
        const double silu = gate / (1 + std::exp(-gate));
        const double bound = 1.1 * dotBound(w1, n, x, token) * std::abs(up) +
                             dotBound(w3, n, x, token) * (std::abs(silu) + 1e-3) +
                             (12 + 2 * std::abs(gate)) * kUnitRoundoff * std::abs(silu * up);
        ASSERT_NEAR(row[size_t(n)], reference[size_t(n)], bound)
            << shape.features << " features, slot " << slot << ", row " << n;
      }
      EXPECT_TRUE(isOperandOf(actual, int64_t(slot), row))
          << shape.features << " features, slot " << slot;
    }
  }

  void checkDown(const Case &c, const Layer &layer, const Routing &routing, const Operands &h,
                 const std::vector<float> &before, const std::vector<float> &actual) {
    const Shape &shape = c.shape;
    const auto tokens = uint32_t(int64_t(before.size()) / shape.features);
    const moeplan_step step{tokens, 0, 0, 0};
    std::vector<float> expected = before;
    moeplan_cpu_experts_down_reference(
        &step, 0, tilesOf(shape.features, shape.downRowsPerTile), h.bytes.data(),
        layer.table.data(), routing.begin.data(), routing.slotToken.data(),
        routing.slotWeight.data(), expected.data(), shape.features, shape.intermediate,
        shape.experts, c.formats, c.hForms, shape.downRowsPerTile, c.accumulate, 0, 0, 1);
    for (uint32_t t = 0; t < tokens; ++t)
      for (int64_t n = 0; n < shape.features; ++n) {
        const size_t i = t * size_t(shape.features) + size_t(n);
        // Each slot of the token adds its product's error and two roundings of a partial sum that
        // is no larger than all terms together.
        double bound = 0, sizes = c.accumulate ? std::abs(before[i]) : 0;
        for (size_t slot = 0; slot < routing.slots(); ++slot) {
          if (routing.slotToken[slot] != t)
            continue;
          const Weights &w = layer.w2[routing.expertOf(slot)];
          double product = 0;
          for (int64_t k = 0; k < shape.intermediate; ++k)
            product += h.at(int64_t(slot), k, moeplan_form_of(w.format)) * w.at(n, k);
          bound += std::abs(routing.slotWeight[slot]) * dotBound(w, n, h, int64_t(slot));
          sizes += std::abs(routing.slotWeight[slot] * product);
        }
        bound += 2 * double(shape.topK + 1) * kUnitRoundoff * sizes;
        ASSERT_NEAR(actual[i], expected[i], bound)
            << shape.features << " features, token " << t << ", row " << n;
      }
  }
};

TEST_P(ExpertsKernelTest, GateAndUpEqualTheReference) {
  std::vector<Constants> all;
  for (const Case &c : cases())
    all.push_back(gateUp(c, c.hForms, 0));
  const std::vector<Kernel> kernels = compile("experts_gate_up", 5, all);
  for (size_t i = 0; i < cases().size(); ++i) {
    const Case &c = cases()[i];
    Layer layer(c.shape, c.formats, i);
    for (uint32_t tokens : kTokenCounts) {
      const Routing routing(c.shape, tokens, layer.random);
      const Operands x(layer.random.floats(size_t(tokens * c.shape.features)), c.shape.features,
                       c.xForms);
      const Operands h = runGateUp(kernels[i], c, layer, routing, x, c.hForms);
      EXPECT_EQ(runGateUp(kernels[i], c, layer, routing, x, c.hForms, true).bytes, h.bytes);
      if (tokens == kTokenCounts[0] || tokens <= 2)
        checkGateUp(c, layer, routing, x, h);
      // One by one: a slot's result does not depend on its neighbours.
      for (size_t slot = 0; slot < routing.slots(); ++slot) {
        Routing alone = routing;
        for (size_t e = 0; e < alone.begin.size(); ++e)
          alone.begin[e] = e > routing.expertOf(slot);
        alone.slotToken = {routing.slotToken[slot]};
        const Operands single = runGateUp(kernels[i], c, layer, alone, x, c.hForms);
        ASSERT_EQ(std::memcmp(single.form(0, MOEPLAN_FORM_F32),
                              h.form(int64_t(slot), MOEPLAN_FORM_F32), size_t(h.rowBytes())),
                  0)
            << c.shape.features << " features, " << tokens << " tokens, slot " << slot;
      }
    }
  }
}

TEST_P(ExpertsKernelTest, DownEqualsTheReference) {
  std::vector<Constants> all;
  for (const Case &c : cases())
    all.push_back(down(c, 0));
  const std::vector<Kernel> kernels = compile("experts_down", 6, all);
  for (size_t i = 0; i < cases().size(); ++i) {
    const Case &c = cases()[i];
    Layer layer(c.shape, c.formats, 100 + i);
    for (uint32_t tokens : kTokenCounts) {
      const Routing routing(c.shape, tokens, layer.random);
      const Operands h(layer.random.floats(routing.slots() * size_t(c.shape.intermediate)),
                       c.shape.intermediate, c.hForms);
      const std::vector<float> before = layer.random.floats(size_t(tokens * c.shape.features));
      const std::vector<float> y = runDown(kernels[i], c, layer, routing, h, before);
      EXPECT_EQ(runDown(kernels[i], c, layer, routing, h, before, true), y);
      if (tokens == kTokenCounts[0] || tokens <= 2)
        checkDown(c, layer, routing, h, before, y);
    }
  }
}

TEST_P(ExpertsKernelTest, ASingleTokenGetsWhatItGetsAmongMany) {
  for (const auto &[c, hForm] : {std::pair<const Case *, int64_t>{&kCases[0], MOEPLAN_FORM_F32},
                                 {&kCases[1], MOEPLAN_FORM_Q8}}) {
    // With one form of h, which must be what it is beside others.
    const std::vector<Kernel> up =
        compile("experts_gate_up", 5, {gateUp(*c, c->hForms, 0), gateUp(*c, hForm, 1)});
    const std::vector<Kernel> kernels = compile("experts_down", 6, {down(*c, 0), down(*c, 1)});
    Layer layer(c->shape, c->formats, 2);
    for (int i = 0; i < 5; ++i) {
      const Routing routing(c->shape, 1, layer.random);
      const Operands x(layer.random.floats(size_t(c->shape.features)), c->shape.features,
                       c->xForms);
      const Operands h = runGateUp(up[0], *c, layer, routing, x, c->hForms);
      EXPECT_EQ(runGateUp(up[1], *c, layer, routing, x, hForm, true).bytes, h.only(hForm).bytes);
      const std::vector<float> before = layer.random.floats(size_t(c->shape.features));
      EXPECT_EQ(runDown(kernels[1], *c, layer, routing, h, before, true),
                runDown(kernels[0], *c, layer, routing, h, before));
    }
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(ExpertsKernelTest);

} // namespace
} // namespace moeplan::testing
