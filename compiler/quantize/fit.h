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

/// The grid from `low` to `high`, where low <= 0 <= high.
MOEPLAN_LANES_INLINE Grid spanGrid(Lanes low, Lanes high, float largest, float steps) {
  const Lanes scale = decodeScale(encodeScale((high - low) * (1.0f / largest)));
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

/// The best grid found for the group's columns: `clips` clipping ranges from `tightest` of the full
/// one to all of it, each followed by one least squares step. `weights` may be null unless
/// kWeighted.
template <bool kWeighted>
MOEPLAN_LANES_INLINE Grid fitGroup(const Lanes *values, const float *weights, uint64_t count,
                                   float largest, float steps, float tightest, int clips) {
  Lanes low{}, high{};
  for (uint64_t k = 0; k < count; ++k) {
    low = minimum(low, values[k]);
    high = maximum(high, values[k]);
  }
  Grid best = spanGrid(low, high, largest, steps);
  Sums sums;
  Lanes bestError = groupError<kWeighted>(values, weights, count, best, largest, sums);
  for (int clip = 0;; ++clip) {
    const Grid refit = leastSquaresGrid(sums, best, steps);
    const Lanes error = groupError<kWeighted>(values, weights, count, refit, largest, sums);
    best = select(error < bestError, refit, best);
    bestError = minimum(error, bestError);
    if (clip + 1 >= clips)
      break;
    const float factor = tightest + (1 - tightest) * float(clip) / float(clips - 1);
    const Grid clipped = spanGrid(low * factor, high * factor, largest, steps);
    const Lanes clippedError =
        groupError<kWeighted>(values, weights, count, clipped, largest, sums);
    best = select(clippedError < bestError, clipped, best);
    bestError = minimum(clippedError, bestError);
  }
  return best;
}

MOEPLAN_LANES_INLINE void roundToGrid(const Lanes *values, uint64_t count, const Grid &grid,
                                      float largest, Lanes *codes) {
  const Lanes inverse = 1.0f / grid.scale;
  for (uint64_t k = 0; k < count; ++k)
    codes[k] = nearestCode(values[k] * inverse + grid.zero, largest);
}

/// Clipping ranges tried by the quantisers that search, and the tightest of them: with few codes, a
/// narrow range gains more on the many small weights than it loses on the few large ones.
constexpr int kClips = 3;
MOEPLAN_LANES_INLINE float tightestClip(uint32_t bits) {
  return bits <= 2 ? 0.65f : bits == 3 ? 0.75f : bits == 4 ? 0.85f : 0.97f;
}

} // namespace moeplan::compiler
