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
template <typename F> MOEPLAN_LANES_INLINE F power(F x, float exponent) {
  const IntOf<F> bits = (IntOf<F>)x;
  const F mantissa = (F)((bits & 0x7fffff) | 0x3f800000);
  const F t = (mantissa - 1.0f) / (mantissa + 1.0f), t2 = t * t;
  const F log2 = toFloat((bits >> 23) - 127) +
                 t * (2.885390f + t2 * (0.961797f + t2 * (0.577078f + t2 * 0.412199f)));
  const F scaled = maximum(minimum(log2 * exponent, splat<F>(60)), splat<F>(-60));
  const F whole = nearest(scaled), f = (scaled - whole) * 0.6931472f;
  const F fraction =
      1.0f + f * (1.0f + f * (0.5f + f * (1.0f / 6 + f * (1.0f / 24 + f * (1.0f / 120)))));
  return fraction * (F)((toInt(whole) + 127) << 23);
}

/// The minimiser of |e|^p + penalty / 2 (x - e)^2, to first order (generalised soft thresholding).
template <typename F> MOEPLAN_LANES_INLINE F shrink(F x, float penalty) {
  const F size = magnitude(x);
  const F kept = size - power(maximum(size, splat<F>(1e-6f)), kExponent - 1) * (1.0f / penalty);
  const F positive = maximum(kept, F{});
  return x < 0 ? -positive : positive;
}

template <typename F>
MOEPLAN_LANES_INLINE Grid<F> fitHalfQuadratic(Rows<F> values, uint64_t count, float largest,
                                              float steps) {
  F low{}, high{};
  for (uint64_t k = 0; k < count; ++k) {
    low = minimum(low, values[k]);
    high = maximum(high, values[k]);
  }
  Grid<F> grid = spanGrid(low, high, largest, steps), best = grid;
  const F inverse = 1.0f / grid.scale;
  F zero = grid.zero, bestError = splat<F>(3e38f);
  float penalty = kFirstPenalty;
  for (int iteration = 0; iteration <= kIterations; ++iteration, penalty *= kPenaltyGrowth) {
    grid = makeGrid(grid.scale, zero, steps);
    F error{}, sum{};
    for (uint64_t k = 0; k < count; ++k) {
      const F scaled = values[k] * inverse;
      const F code = nearestCode(scaled + grid.zero, largest);
      const F rest = scaled - (code - grid.zero);
      error += magnitude(rest);
      sum += code - scaled + shrink(rest, penalty);
    }
    const IntOf<F> better = error < bestError;
    best = select(better, grid, best);
    bestError = minimum(error, bestError);
    zero = sum * (1.0f / float(count));
  }
  return best;
}

template <typename F>
MOEPLAN_LANES_INLINE void quantizeRows(const Panel &panel, PanelCodes &out, unsigned row) {
  const Rows<F> values(panel.values, row), codes(out.codes, row);
  const Rows<IntOf<F>> scales(out.scales, row), zeros(out.zeros, row);
  for (uint64_t g = 0; g < out.groups; ++g) {
    const uint64_t begin = g * out.groupSize, count = out.groupEnd(g) - begin;
    const Grid<F> grid = fitHalfQuadratic(values + begin, count, out.largest, out.steps);
    scales[g] = grid.scaleCode;
    zeros[g] = grid.zeroCode;
    roundToGrid(values + begin, count, grid, out.largest, codes + begin);
  }
}

MOEPLAN_BY_INSTRUCTION_SET(quantizeGroups, (const Panel &panel, PanelCodes &out), (panel, out),
                           MOEPLAN_FOR_ROWS(quantizeRows<F>(panel, out, row)))

} // namespace

void moeplan::compiler::quantizeHqq(const Panel &panel, const QuantizerInput &, PanelCodes &out) {
  quantizeGroups(panel, out);
}
