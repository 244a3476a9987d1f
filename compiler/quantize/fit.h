// The scale and zero point of one group: inlined into every quantiser.
#pragma once

#include "compiler/quantize/panel.h"

namespace moeplan::compiler {

/// A group's grid: an element is scale * (code - zero), both as their bytes say.
struct Grid {
  IntLanes scaleCode, zeroCode;
  Lanes scale, zero;
};

MOEPLAN_LANES_INLINE Grid makeGrid(Lanes scale, Lanes zero, float steps) {
  Grid grid;
  grid.scaleCode = encodeScale(scale);
  grid.scale = decodeScale(grid.scaleCode);
  grid.zeroCode = encodeZero(zero, steps);
  grid.zero = decodeZero(grid.zeroCode, steps);
  return grid;
}
MOEPLAN_LANES_INLINE Grid select(IntLanes condition, const Grid &a, const Grid &b) {
  return {condition ? a.scaleCode : b.scaleCode, condition ? a.zeroCode : b.zeroCode,
          condition ? a.scale : b.scale, condition ? a.zero : b.zero};
}

/// The grid from `low` to `high`, where low <= 0 <= high; with the nearest scale, or with the next
/// one that reaches both ends: at 8 bits nothing costs more than cutting them off.
MOEPLAN_LANES_INLINE Grid spanGrid(Lanes low, Lanes high, float largest, float steps,
                                   bool reachBoth = false) {
  const Lanes wanted = (high - low) * (1.0f / largest);
  IntLanes code = encodeScale(wanted);
  if (reachBoth)
    code -= (IntLanes)(decodeScale(code) < wanted) & (IntLanes)(code < 255); // a true lane is -1
  const Lanes scale = decodeScale(code);
  return makeGrid(scale, -low / scale, steps);
}

/// What least squares for scale and offset of given codes needs: weighted sums over the group of
/// code^2, code, 1, code * w, w.
struct Sums {
  Lanes qq{}, q{}, one{}, qw{}, w{};
};

/// The group's squared error, weighted where kWeighted, on `grid`; and the sums for the codes.
template <bool kWeighted>
MOEPLAN_LANES_INLINE Lanes groupError(const Lanes *values, const float *weights, uint64_t count,
                                      const Grid &grid, float largest, Sums &sums) {
  Lanes error{};
  sums = Sums();
  const Lanes inverse = 1.0f / grid.scale;
  for (uint64_t k = 0; k < count; ++k) {
    const Lanes w = values[k];
    const Lanes code = nearestCode(w * inverse + grid.zero, largest);
    const Lanes rest = w - grid.scale * (code - grid.zero);
    const float weight = kWeighted ? weights[k] : 1.0f;
    error += kWeighted ? rest * rest * weight : rest * rest;
    const Lanes weighted = kWeighted ? code * weight : code;
    sums.qq += weighted * code;
    sums.q += weighted;
    sums.one += splat(weight);
    sums.qw += weighted * w;
    sums.w += kWeighted ? w * weight : w;
  }
  return error;
}

/// The least squares scale and zero of the sums' codes; `otherwise` where they do not determine
/// one. w ~ s q + m: s = (qw one - q w) / (qq one - q q), m = (w - s q) / one, zero = -m / s. The
/// zero is the best one for the scale as it is stored.
MOEPLAN_LANES_INLINE Grid leastSquaresGrid(const Sums &t, const Grid &otherwise, float steps) {
  const Lanes determinant = t.qq * t.one - t.q * t.q;
  const IntLanes determined = determinant > t.qq * t.one * 1e-6f;
  const Lanes safe = determined ? determinant : splat(1);
  const Lanes scale = (t.qw * t.one - t.q * t.w) / safe;
  const IntLanes usable = determined & (scale > 0);
  const Lanes stored = decodeScale(encodeScale(usable ? scale : otherwise.scale));
  const Lanes offset = (t.w - stored * t.q) / (t.one > 0 ? t.one : splat(1));
  return select(usable, makeGrid(stored, -offset / stored, steps), otherwise);
}

/// The lower and upper ends of a group's range, 0 within.
struct Range {
  Lanes low{}, high{};
};
MOEPLAN_LANES_INLINE Range rangeOf(const Lanes *values, uint64_t count) {
  Range range;
  for (uint64_t k = 0; k < count; ++k) {
    range.low = minimum(range.low, values[k]);
    range.high = maximum(range.high, values[k]);
  }
  return range;
}

/// Keeps the better of the best grid so far and its refinements by least squares.
template <bool kWeighted>
MOEPLAN_LANES_INLINE void refine(const Lanes *values, const float *weights, uint64_t count,
                                 float largest, float steps, int iterations, Grid &best,
                                 Lanes &bestError) {
  Sums sums;
  groupError<kWeighted>(values, weights, count, best, largest, sums);
  for (int i = 0; i < iterations; ++i) {
    const Grid refit = leastSquaresGrid(sums, best, steps);
    const Lanes error = groupError<kWeighted>(values, weights, count, refit, largest, sums);
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
template <bool kWeighted>
MOEPLAN_LANES_INLINE Grid fitGroup(const Lanes *values, const float *weights, uint64_t count,
                                   uint32_t bits, float largest, float steps, int clips,
                                   int iterations) {
  const Range range = rangeOf(values, count);
  Sums sums;
  Grid best = spanGrid(range.low, range.high, largest, steps, /*reachBoth=*/true);
  Lanes bestError = groupError<kWeighted>(values, weights, count, best, largest, sums);
  const float tightest = tightestClip(bits), step = (1 - tightest) / float(clips - 1);
  for (int low = 0; low < clips; ++low)
    for (int high = 0; high < clips; ++high) {
      if (low == 0 && high == 0)
        continue; // the full range
      const Grid grid = spanGrid(range.low * (1 - step * float(low)),
                                 range.high * (1 - step * float(high)), largest, steps);
      const Lanes error = groupError<kWeighted>(values, weights, count, grid, largest, sums);
      best = select(error < bestError, grid, best);
      bestError = minimum(error, bestError);
    }
  refine<kWeighted>(values, weights, count, largest, steps, iterations, best, bestError);
  return best;
}

MOEPLAN_LANES_INLINE void roundToGrid(const Lanes *values, uint64_t count, const Grid &grid,
                                      float largest, Lanes *codes) {
  const Lanes inverse = 1.0f / grid.scale;
  for (uint64_t k = 0; k < count; ++k)
    codes[k] = nearestCode(values[k] * inverse + grid.zero, largest);
}

} // namespace moeplan::compiler
