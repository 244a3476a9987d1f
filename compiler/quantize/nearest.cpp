// The quantisers that look at one group at a time.
#include "compiler/quantize/fit.h"
#include "compiler/quantize/quantizer.h"

using namespace moeplan::compiler;

namespace {

template <bool kWeighted>
MOEPLAN_LANES_INLINE void quantizeGroups(const Panel &panel, const float *importance,
                                         PanelCodes &out) {
  // Plain rounding is for speed: 0.5 GB/s of bf16 per core, tests/bench.
  constexpr int clips = kWeighted ? 5 : 3, iterations = kWeighted ? 3 : 1;
  for (uint64_t g = 0; g < out.groups; ++g) {
    const uint64_t begin = g * out.groupSize, count = out.groupEnd(g) - begin;
    const float *weights = kWeighted ? importance + begin : nullptr;
    const Grid grid = fitGroup<kWeighted>(panel.values + begin, weights, count, out.bits,
                                          out.largest, out.steps, clips, iterations);
    out.scales[g] = grid.scaleCode;
    out.zeros[g] = grid.zeroCode;
    roundToGrid(panel.values + begin, count, grid, out.largest, out.codes + begin);
  }
}

MOEPLAN_MULTIVERSION void plain(const Panel &panel, PanelCodes &out) {
  quantizeGroups<false>(panel, nullptr, out);
}
MOEPLAN_MULTIVERSION void weighted(const Panel &panel, const float *importance, PanelCodes &out) {
  quantizeGroups<true>(panel, importance, out);
}

} // namespace

void moeplan::compiler::quantizeNearest(const Panel &panel, const QuantizerInput &,
                                        PanelCodes &out) {
  plain(panel, out);
}

void moeplan::compiler::quantizeWeighted(const Panel &panel, const QuantizerInput &input,
                                         PanelCodes &out) {
  weighted(panel, input.importance, out);
}
