// Error feedback with the Hessian, and the descent that follows it.
#include "compiler/quantize/fit.h"
#include "compiler/quantize/quantizer.h"

using namespace moeplan::compiler;

namespace {

/// Rounds of scales and codes after GPTQ: a third gains less than the noise of an evaluation.
constexpr int kRounds = 2;
/// Of the search for the grids to start from.
constexpr int kClips = 5, kIterations = 2;

template <typename F> MOEPLAN_LANES_INLINE bool anyNonZero(F x) {
  const IntOf<F> nonZero = x != 0.0f;
  for (unsigned r = 0; r < kRowsOf<F>; ++r)
    if (nonZero[r])
      return true;
  return false;
}

/// Changes of columns on their way into the others, as many as a CPU prefetches rows at once: added
/// together they load and store what they are added to once.
template <typename F> struct Changes {
  static constexpr uint64_t kMost = 32;
  F change[kMost];
  const float *row[kMost];
  uint64_t count = 0;
};

/// y[j] += sum over the changes, first to last, of change * row[offset + j], 0 <= j < count. Four y
/// at a time stay in registers.
template <typename F>
MOEPLAN_LANES_INLINE void addChanges(F *y, const Changes<F> &changes, uint64_t offset,
                                     uint64_t count) {
  constexpr uint64_t kAtOnce = 4;
  uint64_t j = 0;
  for (; j + kAtOnce <= count; j += kAtOnce) {
    F sum[kAtOnce];
    for (uint64_t k = 0; k < kAtOnce; ++k)
      sum[k] = y[j + k];
    for (uint64_t i = 0; i < changes.count; ++i) {
      const F change = changes.change[i];
      const float *row = changes.row[i] + offset + j;
      __builtin_prefetch(row + 64); // rows of a whole Hessian lie in different pages
      for (uint64_t k = 0; k < kAtOnce; ++k)
        sum[k] += change * row[k];
    }
    for (uint64_t k = 0; k < kAtOnce; ++k)
      y[j + k] = sum[k];
  }
  for (; j < count; ++j)
    for (uint64_t i = 0; i < changes.count; ++i)
      y[j] += changes.change[i] * changes.row[i][offset + j];
}

/// The columns of a block of the Hessian in some rows of a panel.
template <typename F> struct Block {
  Block(const HessianBlock &hessian, const Panel &panel, PanelCodes &out, unsigned row)
      : hessian(hessian), out(out), values(Rows<F>(panel.values, row) + hessian.begin),
        codes(Rows<F>(out.codes, row) + hessian.begin), scales(out.scales, row),
        zeros(out.zeros, row) {}
  const HessianBlock &hessian;
  const PanelCodes &out;
  Rows<F> values, codes;        ///< [hessian.size]
  Rows<IntOf<F>> scales, zeros; ///< of the panel's groups

  const float *row(uint64_t i) const { return hessian.matrix.data() + i * hessian.size; }
  uint64_t firstGroup() const { return hessian.begin / out.groupSize; }
  uint64_t endGroup() const {
    return (hessian.begin + hessian.size + out.groupSize - 1) / out.groupSize;
  }
};

/// gradient += change(k) H for the columns k of begin .. end - 1.
template <typename F, typename Change>
MOEPLAN_LANES_INLINE void addToGradient(const Block<F> &b, F *gradient, uint64_t begin,
                                        uint64_t end, Change change) {
  for (uint64_t k = begin; k < end;) {
    Changes<F> changes;
    for (; k < end && changes.count < Changes<F>::kMost; ++k) {
      const F x = change(k);
      if (!anyNonZero(x))
        continue;
      changes.change[changes.count] = x;
      changes.row[changes.count++] = b.row(k);
    }
    addChanges(gradient, changes, 0, b.hessian.size);
  }
}

/// Rounds the block's columns in the order of the Hessian and lets those to come make up for each
/// one's error, which is the whole of it: what was added to the column before it was rounded made
/// up for others. Scales and zeros are given. `rest` is scratch, [size].
template <typename F> MOEPLAN_LANES_INLINE void feedBack(const Block<F> &b, F *rest) {
  const uint64_t n = b.hessian.size;
  for (uint64_t i = 0; i < n; ++i)
    rest[i] = b.values[b.hessian.order[i]];
  for (uint64_t begin = 0; begin < n; begin += Changes<F>::kMost) {
    const uint64_t end = std::min(begin + Changes<F>::kMost, n);
    Changes<F> errors;
    for (uint64_t i = begin; i < end; ++i) {
      const uint64_t k = b.hessian.order[i], group = (b.hessian.begin + k) / b.out.groupSize;
      const F scale = decodeScale(b.scales[group]);
      const F zero = decodeZero(b.zeros[group], b.out.steps);
      const F code = nearestCode(rest[i] / scale + zero, b.out.largest);
      b.codes[k] = code;
      const F error = b.values[k] - scale * (code - zero);
      const float *row = b.hessian.feedbackRow(i); // of the columns from i + 1 on
      for (uint64_t j = i + 1; j < end; ++j)
        rest[j] += error * row[j - i - 1];
      errors.change[errors.count] = error;
      errors.row[errors.count++] = row + (end - i - 1);
    }
    addChanges(rest + end, errors, 0, n - end);
  }
}

/// The objective of a group, but for a constant; see refitScales.
template <typename F> MOEPLAN_LANES_INLINE F gridCost(const Sums<F> &t, const Grid<F> &grid) {
  const F s = grid.scale, m = -grid.scale * grid.zero;
  return t.qq * s * s + 2.0f * t.q * s * m + t.one * m * m - 2.0f * (t.qw * s + t.w * m);
}

/// The best scale and zero of each group for the codes as they are, one group after the other. The
/// objective in the group's own scale s and offset m = -s zero is, but for a constant,
///   A s^2 + 2 B s m + C m^2 - 2 (p s + o m)
/// with q the codes, H the group's part of the Hessian, t what the group must make up for, and
/// A = q H q, B = q H 1, C = 1 H 1, p = q H t, o = 1 H t. `gradient` is H (w - w') and kept so.
template <typename F> MOEPLAN_LANES_INLINE void refitScales(const Block<F> &b, F *gradient) {
  for (uint64_t group = b.firstGroup(); group < b.endGroup(); ++group) {
    const uint64_t begin = group * b.out.groupSize - b.hessian.begin;
    const uint64_t end = b.out.groupEnd(group) - b.hessian.begin;
    const Grid<F> now = {b.scales[group], b.zeros[group], decodeScale(b.scales[group]),
                         decodeZero(b.zeros[group], b.out.steps)};
    F qq{}, q1{}, p{}, o{};
    float ones = 0;
    for (uint64_t i = begin; i < end; ++i) {
      const float *row = b.row(i);
      F hq{};
      float h1 = 0;
      for (uint64_t j = begin; j < end; ++j) {
        hq += b.codes[j] * row[j];
        h1 += row[j];
      }
      // H t, with t = (w - w') + w' of this group.
      const F target = gradient[i] + now.scale * (hq - now.zero * h1);
      qq += b.codes[i] * hq;
      q1 += hq;
      ones += h1;
      p += b.codes[i] * target;
      o += target;
    }
    const Sums<F> sums{qq, q1, splat<F>(ones), p, o};
    const Grid<F> candidate = leastSquaresGrid(sums, now, b.out.steps);
    // Stored scales are coarse: the neighbours of the rounded one may be better with their own
    // zero.
    Grid<F> best = now;
    F bestCost = gridCost(sums, now);
    for (int step = -1; step <= 1; ++step) {
      const IntOf<F> code = candidate.scaleCode + step;
      const F scale = decodeScale(code > 255 ? IntOf<F>{} + 255 : code < 0 ? IntOf<F>{} : code);
      const Grid<F> grid =
          makeGrid(scale, (scale * q1 - o) / (scale * splat<F>(ones)), b.out.steps);
      const F cost = gridCost(sums, grid);
      best = select(cost < bestCost, grid, best);
      bestCost = minimum(cost, bestCost);
    }
    addToGradient(b, gradient, begin, end, [&](uint64_t k) __attribute__((always_inline)) {
      const F code = b.codes[k];
      return now.scale * (code - now.zero) - best.scale * (code - best.zero);
    });
    b.scales[group] = best.scaleCode;
    b.zeros[group] = best.zeroCode;
  }
}

/// One sweep over the columns: each code goes where the objective is least with all others fixed.
template <typename F> MOEPLAN_LANES_INLINE void descend(const Block<F> &b, F *gradient) {
  const uint64_t n = b.hessian.size;
  for (uint64_t begin = 0; begin < n; begin += Changes<F>::kMost) {
    const uint64_t end = std::min(begin + Changes<F>::kMost, n);
    Changes<F> changes;
    for (uint64_t k = begin; k < end; ++k) {
      const uint64_t group = (b.hessian.begin + k) / b.out.groupSize;
      const F scale = decodeScale(b.scales[group]);
      const float *row = b.row(k);
      const F code = b.codes[k];
      const F moved = nearestCode(code + gradient[k] / (scale * row[k]), b.out.largest);
      const F change = scale * (code - moved);
      if (!anyNonZero(change))
        continue;
      b.codes[k] = moved;
      for (uint64_t j = begin; j < end; ++j)
        gradient[j] += change * row[j];
      changes.change[changes.count] = change;
      changes.row[changes.count++] = row;
    }
    addChanges(gradient, changes, 0, begin);
    addChanges(gradient + end, changes, end, n - end);
  }
}

/// Moments of bounded blocks are quantised block by block: between blocks nothing is known.
/// `scratch` has room for the panel's columns.
template <typename F>
MOEPLAN_LANES_INLINE void quantizeRows(const Panel &panel, const QuantizerInput &input,
                                       PanelCodes &out, float *scratch, bool refine, unsigned row) {
  const Rows<F> values(panel.values, row);
  const Rows<IntOf<F>> scales(out.scales, row), zeros(out.zeros, row);
  for (uint64_t g = 0; g < out.groups; ++g) {
    const uint64_t begin = g * out.groupSize;
    const Grid<F> grid =
        fitGroup<true>(values + begin, input.importance + begin, out.groupEnd(g) - begin, out.bits,
                       out.largest, out.steps, kClips, kIterations);
    scales[g] = grid.scaleCode;
    zeros[g] = grid.zeroCode;
  }
  for (const HessianBlock &hessian : input.hessian->blocks()) {
    const Block<F> b(hessian, panel, out, row);
    const uint64_t n = hessian.size;
    F *gradient = reinterpret_cast<F *>(scratch);
    feedBack(b, gradient);
    if (!refine)
      continue;
    std::fill(gradient, gradient + n, F{});
    addToGradient(b, gradient, 0, n, [&](uint64_t k) __attribute__((always_inline)) {
      const uint64_t group = (hessian.begin + k) / out.groupSize;
      const F scale = decodeScale(b.scales[group]);
      const F zero = decodeZero(b.zeros[group], out.steps);
      return b.values[k] - scale * (b.codes[k] - zero);
    });
    for (int round = 0; round < kRounds; ++round) {
      refitScales(b, gradient);
      descend(b, gradient);
    }
  }
}
MOEPLAN_BY_INSTRUCTION_SET(
    quantizeBlocks,
    (const Panel &panel, const QuantizerInput &input, PanelCodes &out, float *scratch, bool refine),
    (panel, input, out, scratch, refine),
    MOEPLAN_FOR_ROWS(quantizeRows<F>(panel, input, out, scratch, refine, row)))

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
