// The scale and zero point of one group: inlined into every quantiser.
#pragma once

#include "compiler/quantize/panel.h"

namespace moeplan::compiler {

/// A group's grid: an element is scale * (code - zero), both as their bytes say.
template <typename F> struct Grid {
  IntOf<F> scaleCode, zeroCode;
  F scale, zero;
};

template <typename F> MOEPLAN_LANES_INLINE Grid<F> makeGrid(F scale, F zero, float steps) {
  Grid<F> grid;
  grid.scaleCode = encodeScale(scale);
  grid.scale = decodeScale(grid.scaleCode);
  grid.zeroCode = encodeZero(zero, steps);
  grid.zero = decodeZero(grid.zeroCode, steps);
  return grid;
}
template <typename F>
MOEPLAN_LANES_INLINE Grid<F> select(IntOf<F> condition, const Grid<F> &a, const Grid<F> &b) {
  return {condition ? a.scaleCode : b.scaleCode, condition ? a.zeroCode : b.zeroCode,
          condition ? a.scale : b.scale, condition ? a.zero : b.zero};
}

/// The grid from `low` to `high`, where low <= 0 <= high; with the nearest scale, or with the next
/// one that reaches both ends: at 8 bits nothing costs more than cutting them off.
template <typename F>
MOEPLAN_LANES_INLINE Grid<F> spanGrid(F low, F high, float largest, float steps,
                                      bool reachBoth = false) {
  using I = IntOf<F>;
  const F wanted = (high - low) * (1.0f / largest);
  I code = encodeScale(wanted);
  if (reachBoth)
    code -= (I)(decodeScale(code) < wanted) & (I)(code < 255); // a true lane is -1
  const F scale = decodeScale(code);
  return makeGrid(scale, -low / scale, steps);
}

/// What least squares for scale and offset of given codes needs: weighted sums over the group of
/// code^2, code, 1, code * w, w.
template <typename F> struct Sums {
  F qq{}, q{}, one{}, qw{}, w{};
};

/// The group's squared error, weighted where kWeighted, on `grid`; and the sums for the codes.
template <bool kWeighted, typename F>
MOEPLAN_LANES_INLINE F groupError(Rows<F> values, const float *weights, uint64_t count,
                                  const Grid<F> &grid, float largest, Sums<F> &sums) {
  F error{};
  sums = Sums<F>();
  const F inverse = 1.0f / grid.scale;
  for (uint64_t k = 0; k < count; ++k) {
    const F w = values[k];
    const F code = nearestCode(w * inverse + grid.zero, largest);
    const F rest = w - grid.scale * (code - grid.zero);
    const float weight = kWeighted ? weights[k] : 1.0f;
    error += kWeighted ? rest * rest * weight : rest * rest;
    const F weighted = kWeighted ? code * weight : code;
    sums.qq += weighted * code;
    sums.q += weighted;
    sums.one += splat<F>(weight);
    sums.qw += weighted * w;
    sums.w += kWeighted ? w * weight : w;
  }
  return error;
}

/// The least squares scale and zero of the sums' codes; `otherwise` where they do not determine
/// one. w ~ s q + m: s = (qw one - q w) / (qq one - q q), m = (w - s q) / one, zero = -m / s. The
/// zero is the best one for the scale as it is stored.
template <typename F>
MOEPLAN_LANES_INLINE Grid<F> leastSquaresGrid(const Sums<F> &t, const Grid<F> &otherwise,
                                              float steps) {
  const F determinant = t.qq * t.one - t.q * t.q;
  const IntOf<F> determined = determinant > t.qq * t.one * 1e-6f;
  const F safe = determined ? determinant : splat<F>(1);
  const F scale = (t.qw * t.one - t.q * t.w) / safe;
  const IntOf<F> usable = determined & (scale > 0);
  const F stored = decodeScale(encodeScale(usable ? scale : otherwise.scale));
  const F offset = (t.w - stored * t.q) / (t.one > 0 ? t.one : splat<F>(1));
  return select(usable, makeGrid(stored, -offset / stored, steps), otherwise);
}

/// The lower and upper ends of a group's range, 0 within.
template <typename F> struct Range {
  F low{}, high{};
};
template <typename F> MOEPLAN_LANES_INLINE Range<F> rangeOf(Rows<F> values, uint64_t count) {
  Range<F> range;
  for (uint64_t k = 0; k < count; ++k) {
    range.low = minimum(range.low, values[k]);
    range.high = maximum(range.high, values[k]);
  }
  return range;
}

/// Keeps the better of the best grid so far and its refinements by least squares.
template <bool kWeighted, typename F>
MOEPLAN_LANES_INLINE void refine(Rows<F> values, const float *weights, uint64_t count,
                                 float largest, float steps, int iterations, Grid<F> &best,
                                 F &bestError) {
  Sums<F> sums;
  groupError<kWeighted>(values, weights, count, best, largest, sums);
  for (int i = 0; i < iterations; ++i) {
    const Grid<F> refit = leastSquaresGrid(sums, best, steps);
    const F error = groupError<kWeighted>(values, weights, count, refit, largest, sums);
    best = select(error < bestError, refit, best);
    bestError = minimum(error, bestError);
  }
}

/// With few codes, a narrow range gains more on the many small weights than it loses on the few
/// large ones: the tightest range that is tried, of the full one.
MOEPLAN_LANES_INLINE float tightestClip(uint32_t bits) {
  return bits <= 2 ? 0.55f : bits == 3 ? 0.7f : bits == 4 ? 0.82f : 0.97f;
}

/// The best grid found for the group's columns: each end of the range at `clips` places from the
/// tightest to the full one, then `iterations` of least squares. `weights` may be null unless
/// kWeighted.
template <bool kWeighted, typename F>
MOEPLAN_LANES_INLINE Grid<F> fitGroup(Rows<F> values, const float *weights, uint64_t count,
                                      uint32_t bits, float largest, float steps, int clips,
                                      int iterations) {
  const Range<F> range = rangeOf(values, count);
  Sums<F> sums;
  Grid<F> best = spanGrid(range.low, range.high, largest, steps, /*reachBoth=*/true);
  F bestError = groupError<kWeighted>(values, weights, count, best, largest, sums);
  const float tightest = tightestClip(bits), step = (1 - tightest) / float(clips - 1);
  for (int low = 0; low < clips; ++low)
    for (int high = 0; high < clips; ++high) {
      if (low == 0 && high == 0)
        continue; // the full range
      const Grid<F> grid = spanGrid(range.low * (1 - step * float(low)),
                                    range.high * (1 - step * float(high)), largest, steps);
      const F error = groupError<kWeighted>(values, weights, count, grid, largest, sums);
      best = select(error < bestError, grid, best);
      bestError = minimum(error, bestError);
    }
  refine<kWeighted>(values, weights, count, largest, steps, iterations, best, bestError);
  return best;
}

template <typename F>
MOEPLAN_LANES_INLINE void roundToGrid(Rows<F> values, uint64_t count, const Grid<F> &grid,
                                      float largest, Rows<F> codes) {
  const F inverse = 1.0f / grid.scale;
  for (uint64_t k = 0; k < count; ++k)
    codes[k] = nearestCode(values[k] * inverse + grid.zero, largest);
}

} // namespace moeplan::compiler
