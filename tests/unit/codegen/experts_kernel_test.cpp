#include "tests/unit/codegen/kernel_test.h"

#include <cmath>

namespace moeplan::testing {
namespace {

struct Shape {
  int64_t features, intermediate, experts, topK, rowsPerTile;
};

constexpr int64_t kF32 = 1 << MOEPLAN_FORMAT_F32, kBf16 = 1 << MOEPLAN_FORMAT_BF16;
/// All bit widths; two group sizes of one of them.
constexpr int64_t kLadder = kBf16 | 1 << MOEPLAN_FORMAT_INT8G64 | 1 << MOEPLAN_FORMAT_INT4G32 |
                            1 << MOEPLAN_FORMAT_INT4G128 | 1 << MOEPLAN_FORMAT_INT3G32 |
                            1 << MOEPLAN_FORMAT_INT2G64;
constexpr int64_t kUneven = 1 << MOEPLAN_FORMAT_INT3G64 | 1 << MOEPLAN_FORMAT_INT8G32;
constexpr int64_t kInt2 = 1 << MOEPLAN_FORMAT_INT2G32;

/// One specialisation; each takes long to compile, so that there are few.
struct Case {
  Shape shape;
  int64_t formats, accumulate;
};
constexpr Case kCases[] = {
    {{192, 320, 6, 3, 32}, kF32 | kBf16, 1}, {{7, 129, 3, 2, 5}, kF32, 0},
    {{129, 7, 2, 1, 64}, kBf16, 0},          {{33, 1, 4, 4, 1}, kBf16, 1},
    {{192, 320, 6, 3, 32}, kLadder, 1},      {{129, 49, 3, 2, 16}, kUneven, 0},
    {{33, 17, 4, 4, 64}, kInt2, 1}};

/// A layer's experts, in formats drawn from a set, and tokens routed to them.
struct Layer {
  Layer(Shape shape, int64_t formats, uint32_t tokens, uint64_t seed)
      : shape(shape), tokens(tokens), random(seed) {
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
    for (int64_t e = 0; e < shape.experts; ++e)
      table.push_back({w1[e].data(), w3[e].data(), w2[e].data(), uint16_t(w1[e].format),
                       uint16_t(w3[e].format), uint16_t(w2[e].format), 0});
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
                                          shape.topK);
  }

  size_t slots() const { return slotToken.size(); }
  int64_t expertOf(size_t slot) const {
    int64_t e = 0;
    while (begin[size_t(e) + 1] <= slot)
      ++e;
    return e;
  }

  Shape shape;
  uint32_t tokens;
  RandomNumbers random;
  std::vector<Weights> w1, w3, w2;
  std::vector<moeplan_expert> table;
  std::vector<uint32_t> begin, slotToken;
  std::vector<float> slotWeight;
};

uint64_t tilesOf(int64_t rows, Shape shape) {
  return uint64_t((rows + shape.rowsPerTile - 1) / shape.rowsPerTile);
}

class ExpertsKernelTest : public KernelTest {
protected:
  static Constants constants(Shape shape, int64_t formats) {
    return {{"features", shape.features},
            {"intermediate", shape.intermediate},
            {"num_experts", shape.experts},
            {"formats", formats},
            {"rows_per_tile", shape.rowsPerTile}};
  }
};

TEST_P(ExpertsKernelTest, GateAndUpEqualTheReference) {
  std::vector<Constants> all;
  for (const Case &each : kCases)
    all.push_back(constants(each.shape, each.formats));
  const std::vector<Kernel> kernels = compile("experts_gate_up", 5, all);
  size_t next = 0;
  for (const auto &[shape, formats, accumulate] : kCases) {
    const Kernel &kernel = kernels[next++];
    for (uint32_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 33}) {
      Layer layer(shape, formats, tokens, tokens);
      const moeplan_step step{tokens, 0, 0, 0};
      auto x = layer.random.floats(size_t(tokens * shape.features));
      const uint64_t tiles = tilesOf(shape.intermediate, shape);
      const std::vector<float> before(layer.slots() * size_t(shape.intermediate), -7);
      std::vector<float> expected = before, actual = before;
      moeplan_cpu_experts_gate_up_reference(&step, 0, tiles, x.data(), layer.table.data(),
                                            layer.begin.data(), layer.slotToken.data(),
                                            expected.data(), shape.features, shape.intermediate,
                                            shape.experts, formats, shape.rowsPerTile);
      auto run = [&](float *h, bool inPieces) {
        const std::vector<void *> bindings{x.data(), layer.table.data(), layer.begin.data(),
                                           layer.slotToken.data(), h};
        inPieces ? kernel.runInPieces(bindings, step, tiles) : kernel.run(bindings, step, tiles);
      };
      run(actual.data(), false);
      for (size_t slot = 0; slot < layer.slots(); ++slot)
        for (int64_t n = 0; n < shape.intermediate; ++n) {
          const size_t i = slot * size_t(shape.intermediate) + size_t(n);
          const auto e = size_t(layer.expertOf(slot));
          const float *row = x.data() + layer.slotToken[slot] * shape.features;
          double gate = 0, up = 0;
          for (int64_t k = 0; k < shape.features; ++k) {
            gate += double(row[k]) * layer.w1[e].at(n, k);
            up += double(row[k]) * layer.w3[e].at(n, k);
          }
          // |silu'| <= 1.1; silu itself takes an exponential, a sum and a division, which is a few
          // roundings and, for a large gate, an argument rounded relative to its size.
          const double silu = gate / (1 + std::exp(-gate));
          const double bound = 1.1 * dotBound(layer.w1[e], n, row) * std::abs(up) +
                               dotBound(layer.w3[e], n, row) * (std::abs(silu) + 1e-3) +
                               (12 + 2 * std::abs(gate)) * kUnitRoundoff * std::abs(expected[i]);
          ASSERT_NEAR(actual[i], expected[i], bound) << shape.features << " features, " << tokens
                                                     << " tokens, slot " << slot << ", row " << n;
        }
      expectPiecesGiveTheSameBytes<float>(before, run);
    }
  }
}

TEST_P(ExpertsKernelTest, DownEqualsTheReference) {
  std::vector<Constants> all;
  for (const Case &each : kCases) {
    all.push_back(constants(each.shape, each.formats));
    all.back().emplace_back("accumulate", each.accumulate);
  }
  const std::vector<Kernel> kernels = compile("experts_down", 6, all);
  size_t next = 0;
  for (const auto &[shape, formats, accumulate] : kCases) {
    const Kernel &kernel = kernels[next++];
    for (uint32_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 33}) {
      Layer layer(shape, formats, tokens, 100 + tokens);
      const moeplan_step step{tokens, 0, 0, 0};
      auto h = layer.random.floats(layer.slots() * size_t(shape.intermediate));
      const uint64_t tiles = tilesOf(shape.features, shape);
      const auto before = layer.random.floats(size_t(tokens * shape.features));
      std::vector<float> expected = before, actual = before;
      moeplan_cpu_experts_down_reference(
          &step, 0, tiles, h.data(), layer.table.data(), layer.begin.data(), layer.slotToken.data(),
          layer.slotWeight.data(), expected.data(), shape.features, shape.intermediate,
          shape.experts, formats, shape.rowsPerTile, accumulate);
      auto run = [&](float *y, bool inPieces) {
        const std::vector<void *> bindings{h.data(),
                                           layer.table.data(),
                                           layer.begin.data(),
                                           layer.slotToken.data(),
                                           layer.slotWeight.data(),
                                           y};
        inPieces ? kernel.runInPieces(bindings, step, tiles) : kernel.run(bindings, step, tiles);
      };
      run(actual.data(), false);
      for (uint32_t t = 0; t < tokens; ++t)
        for (int64_t n = 0; n < shape.features; ++n) {
          const size_t i = t * size_t(shape.features) + size_t(n);
          // Each slot of the token adds its product's error and two roundings of a partial sum
          // that is no larger than all terms together.
          double bound = 0, sizes = accumulate ? std::abs(before[i]) : 0;
          for (size_t slot = 0; slot < layer.slots(); ++slot) {
            if (layer.slotToken[slot] != t)
              continue;
            const Weights &w = layer.w2[size_t(layer.expertOf(slot))];
            const float *row = h.data() + slot * size_t(shape.intermediate);
            double product = 0;
            for (int64_t k = 0; k < shape.intermediate; ++k)
              product += double(row[k]) * w.at(n, k);
            bound += std::abs(layer.slotWeight[slot]) * dotBound(w, n, row);
            sizes += std::abs(layer.slotWeight[slot] * product);
          }
          bound += 2 * double(shape.topK + 1) * kUnitRoundoff * sizes;
          ASSERT_NEAR(actual[i], expected[i], bound)
              << shape.features << " features, token " << t << " of " << tokens << ", row " << n;
        }
      expectPiecesGiveTheSameBytes<float>(before, run);
    }
  }
}

MOEPLAN_INSTANTIATE_KERNEL_TEST(ExpertsKernelTest);

} // namespace
} // namespace moeplan::testing
