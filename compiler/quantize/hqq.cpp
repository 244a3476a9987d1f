// Half-quadratic quantisation: zero points without data.
#include "compiler/quantize/fit.h"
#include "compiler/quantize/quantizer.h"

using namespace moeplan::compiler;

namespace {

// The published settings: |error|^0.7 as the loss, a penalty that starts at 10 and grows by 1 %,
// 20 iterations. Errors are taken in units of a group's scale, so that the penalty means the same
// for every weight.
constexpr float kExponent = 0.7f, kFirstPenalty = 10, kPenaltyGrowth = 1.01f;
constexpr int kIterations = 20;

/// x^power for x > 0 to about 1e-5: 2^(power * log2 x), with the series of artanh for the logarithm
/// and Taylor's of e^x. Own arithmetic, since the C library's differs between CPUs.
MOEPLAN_LANES_INLINE Lanes power(Lanes x, float exponent) {
  const IntLanes bits = (IntLanes)x;
  const Lanes mantissa = (Lanes)((bits & 0x7fffff) | 0x3f800000);
  const Lanes t = (mantissa - 1.0f) / (mantissa + 1.0f), t2 = t * t;
  const Lanes log2 = toFloat((bits >> 23) - 127) +
                     t * (2.885390f + t2 * (0.961797f + t2 * (0.577078f + t2 * 0.412199f)));
  const Lanes scaled = maximum(minimum(log2 * exponent, splat(60)), splat(-60));
  const Lanes whole = nearest(scaled), f = (scaled - whole) * 0.6931472f;
  const Lanes fraction =
      1.0f + f * (1.0f + f * (0.5f + f * (1.0f / 6 + f * (1.0f / 24 + f * (1.0f / 120)))));
  return fraction * (Lanes)((toInt(whole) + 127) << 23);
}

/// The minimiser of |e|^p + penalty / 2 (x - e)^2, to first order (generalised soft thresholding).
MOEPLAN_LANES_INLINE Lanes shrink(Lanes x, float penalty) {
  const Lanes size = magnitude(x);
  const Lanes kept = size - power(maximum(size, splat(1e-6f)), kExponent - 1) * (1.0f / penalty);
  const Lanes positive = maximum(kept, Lanes{});
  return x < 0 ? -positive : positive;
}

MOEPLAN_LANES_INLINE Grid fitHalfQuadratic(const Lanes *values, uint64_t count, float largest,
                                           float steps) {
  Lanes low{}, high{};
  for (uint64_t k = 0; k < count; ++k) {
    low = minimum(low, values[k]);
    high = maximum(high, values[k]);
  }
  Grid grid = spanGrid(low, high, largest, steps), best = grid;
  const Lanes inverse = 1.0f / grid.scale;
  Lanes zero = grid.zero, bestError = splat(3e38f);
  float penalty = kFirstPenalty;
  for (int iteration = 0; iteration <= kIterations; ++iteration, penalty *= kPenaltyGrowth) {
    grid = makeGrid(grid.scale, zero, steps);
    Lanes error{}, sum{};
    for (uint64_t k = 0; k < count; ++k) {
      const Lanes scaled = values[k] * inverse;
      const Lanes code = nearestCode(scaled + grid.zero, largest);
      const Lanes rest = scaled - (code - grid.zero);
      error += magnitude(rest);
      sum += code - scaled + shrink(rest, penalty);
    }
    const IntLanes better = error < bestError;
    best = select(better, grid, best);
    bestError = minimum(error, bestError);
    zero = sum * (1.0f / float(count));
  }
  return best;
}

MOEPLAN_MULTIVERSION void quantizeGroups(const Panel &panel, PanelCodes &out) {
  for (uint64_t g = 0; g < out.groups; ++g) {
    const uint64_t begin = g * out.groupSize, count = out.groupEnd(g) - begin;
    const Grid grid = fitHalfQuadratic(panel.values + begin, count, out.largest, out.steps);
    out.scales[g] = grid.scaleCode;
    out.zeros[g] = grid.zeroCode;
    roundToGrid(panel.values + begin, count, grid, out.largest, out.codes + begin);
  }
}

} // namespace

void moeplan::compiler::quantizeHqq(const Panel &panel, const QuantizerInput &, PanelCodes &out) {
  quantizeGroups(panel, out);
}
