// Error feedback with the Hessian, and the descent that follows it.
#include "compiler/quantize/fit.h"
#include "compiler/quantize/quantizer.h"

using namespace moeplan::compiler;

namespace {

/// Rounds of scales and codes after GPTQ: a third gains less than the noise of an evaluation.
constexpr int kRounds = 2;
/// Of the search for the grids to start from.
constexpr int kClips = 5, kIterations = 2;

/// y[0 .. count) -= factor[i] * x, for 16 rows at once.
MOEPLAN_LANES_INLINE void subtractOuter(Lanes *y, const float *factor, Lanes x, uint64_t count) {
  for (uint64_t j = 0; j < count; ++j)
    y[j] -= x * factor[j];
}

MOEPLAN_LANES_INLINE bool anyNonZero(Lanes x) {
  const IntLanes nonZero = x != 0.0f;
  for (unsigned r = 0; r < kLanes; ++r)
    if (nonZero[r])
      return true;
  return false;
}

struct Block {
  const HessianBlock &hessian;
  const Panel &panel;
  PanelCodes &out;

  const Lanes *values() const { return panel.values + hessian.begin; }
  Lanes *codes() const { return out.codes + hessian.begin; }
  uint64_t firstGroup() const { return hessian.begin / out.groupSize; }
  uint64_t endGroup() const {
    return (hessian.begin + hessian.size + out.groupSize - 1) / out.groupSize;
  }
};

/// Rounds the block's columns in the order of the Hessian and lets those to come make up for each
/// one's error. Scales and zeros are given. `rest` is scratch, [size].
MOEPLAN_LANES_INLINE void feedBack(const Block &b, Lanes *rest) {
  const uint64_t n = b.hessian.size;
  for (uint64_t i = 0; i < n; ++i)
    rest[i] = b.values()[b.hessian.order[i]];
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t k = b.hessian.order[i], group = (b.hessian.begin + k) / b.out.groupSize;
    const Lanes scale = decodeScale(b.out.scales[group]);
    const Lanes zero = decodeZero(b.out.zeros[group], b.out.steps);
    const Lanes code = nearestCode(rest[i] / scale + zero, b.out.largest);
    b.codes()[k] = code;
    const Lanes error = rest[i] - scale * (code - zero);
    subtractOuter(rest + i + 1, b.hessian.feedback.data() + i * n + i + 1, error, n - i - 1);
  }
}

/// The objective of a group, but for a constant; see refitScales.
MOEPLAN_LANES_INLINE Lanes gridCost(const Sums &t, const Grid &grid) {
  const Lanes s = grid.scale, m = -grid.scale * grid.zero;
  return t.qq * s * s + 2.0f * t.q * s * m + t.one * m * m - 2.0f * (t.qw * s + t.w * m);
}

/// The best scale and zero of each group for the codes as they are, one group after the other. The
/// objective in the group's own scale s and offset m = -s zero is, but for a constant,
///   A s^2 + 2 B s m + C m^2 - 2 (p s + o m)
/// with q the codes, H the group's part of the Hessian, t what the group must make up for, and
/// A = q H q, B = q H 1, C = 1 H 1, p = q H t, o = 1 H t. `gradient` is H (w - w') and kept so.
MOEPLAN_LANES_INLINE void refitScales(const Block &b, Lanes *gradient) {
  const uint64_t n = b.hessian.size;
  for (uint64_t group = b.firstGroup(); group < b.endGroup(); ++group) {
    const uint64_t begin = group * b.out.groupSize - b.hessian.begin;
    const uint64_t end = b.out.groupEnd(group) - b.hessian.begin;
    const Grid now = {b.out.scales[group], b.out.zeros[group], decodeScale(b.out.scales[group]),
                      decodeZero(b.out.zeros[group], b.out.steps)};
    Lanes qq{}, q1{}, p{}, o{};
    float ones = 0;
    for (uint64_t i = begin; i < end; ++i) {
      const float *row = b.hessian.matrix.data() + i * n;
      Lanes hq{};
      float h1 = 0;
      for (uint64_t j = begin; j < end; ++j) {
        hq += b.codes()[j] * row[j];
        h1 += row[j];
      }
      // H t, with t = (w - w') + w' of this group.
      const Lanes target = gradient[i] + now.scale * (hq - now.zero * h1);
      qq += b.codes()[i] * hq;
      q1 += hq;
      ones += h1;
      p += b.codes()[i] * target;
      o += target;
    }
    const Sums sums{qq, q1, splat(ones), p, o};
    const Grid candidate = leastSquaresGrid(sums, now, b.out.steps);
    // Stored scales are coarse: the neighbours of the rounded one may be better with their own
    // zero.
    Grid best = now;
    Lanes bestCost = gridCost(sums, now);
    for (int step = -1; step <= 1; ++step) {
      const IntLanes code = candidate.scaleCode + step;
      const Lanes scale = decodeScale(code > 255 ? IntLanes{} + 255 : code < 0 ? IntLanes{} : code);
      const Grid grid = makeGrid(scale, (scale * q1 - o) / (scale * splat(ones)), b.out.steps);
      const Lanes cost = gridCost(sums, grid);
      best = select(cost < bestCost, grid, best);
      bestCost = minimum(cost, bestCost);
    }
    for (uint64_t i = begin; i < end; ++i) {
      const Lanes code = b.codes()[i];
      const Lanes change = best.scale * (code - best.zero) - now.scale * (code - now.zero);
      if (anyNonZero(change))
        subtractOuter(gradient, b.hessian.matrix.data() + i * n, change, n);
    }
    b.out.scales[group] = best.scaleCode;
    b.out.zeros[group] = best.zeroCode;
  }
}

/// One sweep over the columns: each code goes where the objective is least with all others fixed.
MOEPLAN_LANES_INLINE void descend(const Block &b, Lanes *gradient) {
  const uint64_t n = b.hessian.size;
  for (uint64_t k = 0; k < n; ++k) {
    const uint64_t group = (b.hessian.begin + k) / b.out.groupSize;
    const Lanes scale = decodeScale(b.out.scales[group]);
    const float *row = b.hessian.matrix.data() + k * n;
    const Lanes code = b.codes()[k];
    const Lanes moved = nearestCode(code + gradient[k] / (scale * row[k]), b.out.largest);
    const Lanes change = scale * (moved - code);
    if (!anyNonZero(change))
      continue;
    b.codes()[k] = moved;
    subtractOuter(gradient, row, change, n);
  }
}

/// Moments of bounded blocks are quantised block by block: between blocks nothing is known.
MOEPLAN_MULTIVERSION void quantizeBlocks(const Panel &panel, const QuantizerInput &input,
                                         PanelCodes &out, Lanes *scratch, bool refine) {
  for (uint64_t g = 0; g < out.groups; ++g) {
    const uint64_t begin = g * out.groupSize;
    const Grid grid =
        fitGroup<true>(panel.values + begin, input.importance + begin, out.groupEnd(g) - begin,
                       out.bits, out.largest, out.steps, kClips, kIterations);
    out.scales[g] = grid.scaleCode;
    out.zeros[g] = grid.zeroCode;
  }
  for (const HessianBlock &hessian : input.hessian->blocks()) {
    const Block b{hessian, panel, out};
    const uint64_t n = hessian.size;
    Lanes *gradient = scratch;
    feedBack(b, gradient);
    if (!refine)
      continue;
    for (uint64_t k = 0; k < n; ++k)
      gradient[k] = Lanes{};
    for (uint64_t k = 0; k < n; ++k) {
      const uint64_t group = (hessian.begin + k) / out.groupSize;
      const Lanes scale = decodeScale(out.scales[group]);
      const Lanes zero = decodeZero(out.zeros[group], out.steps);
      const Lanes rest = b.values()[k] - scale * (b.codes()[k] - zero);
      subtractOuter(gradient, hessian.matrix.data() + k * n, -rest, n);
    }
    for (int round = 0; round < kRounds; ++round) {
      refitScales(b, gradient);
      descend(b, gradient);
    }
  }
}

} // namespace

void moeplan::compiler::quantizeGptq(const Panel &panel, const QuantizerInput &input,
                                     PanelCodes &out) {
  LaneBuffer scratch(panel.columns);
  quantizeBlocks(panel, input, out, scratch.data(), /*refine=*/false);
}

void moeplan::compiler::quantizeDescent(const Panel &panel, const QuantizerInput &input,
                                        PanelCodes &out) {
  LaneBuffer scratch(panel.columns);
  quantizeBlocks(panel, input, out, scratch.data(), /*refine=*/true);
}
