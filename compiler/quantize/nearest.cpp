// The quantisers that look at one group at a time.
#include "compiler/quantize/fit.h"
#include "compiler/quantize/quantizer.h"

using namespace moeplan::compiler;

namespace {

template <bool kWeighted, typename F>
MOEPLAN_LANES_INLINE void quantizeGroups(const Panel &panel, const float *importance,
                                         PanelCodes &out, unsigned row) {
  const Rows<F> values(panel.values, row), codes(out.codes, row);
  const Rows<IntOf<F>> scales(out.scales, row), zeros(out.zeros, row);
  // Plain rounding is for speed: 0.5 GB/s of bf16 per core, tests/bench.
  constexpr int clips = kWeighted ? 5 : 3, iterations = kWeighted ? 3 : 1;
  for (uint64_t g = 0; g < out.groups; ++g) {
    const uint64_t begin = g * out.groupSize, count = out.groupEnd(g) - begin;
    const float *weights = kWeighted ? importance + begin : nullptr;
    const Grid<F> grid = fitGroup<kWeighted>(values + begin, weights, count, out.bits, out.largest,
                                             out.steps, clips, iterations);
    scales[g] = grid.scaleCode;
    zeros[g] = grid.zeroCode;
    roundToGrid(values + begin, count, grid, out.largest, codes + begin);
  }
}

MOEPLAN_BY_INSTRUCTION_SET(plain, (const Panel &panel, PanelCodes &out), (panel, out),
                           MOEPLAN_FOR_ROWS((quantizeGroups<false, F>(panel, nullptr, out, row))))
MOEPLAN_BY_INSTRUCTION_SET(weighted, (const Panel &panel, const float *importance, PanelCodes &out),
                           (panel, importance, out),
                           MOEPLAN_FOR_ROWS((quantizeGroups<true, F>(panel, importance, out, row))))

} // namespace

void moeplan::compiler::quantizeNearest(const Panel &panel, const QuantizerInput &,
                                        PanelCodes &out) {
  plain(panel, out);
}

void moeplan::compiler::quantizeWeighted(const Panel &panel, const QuantizerInput &input,
                                         PanelCodes &out) {
  weighted(panel, input.importance, out);
}
