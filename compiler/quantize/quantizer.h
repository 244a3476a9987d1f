// The quantisers: how codes and scales are chosen for given weights.
#pragma once

#include "compiler/quantize/hessian.h"
#include <array>
#include <cstdint>
#include <string_view>

namespace moeplan::compiler {

struct Panel;
struct PanelCodes;

/// What a quantiser is given besides a panel. Both null: no calibration.
struct QuantizerInput {
  /// Importance of each column, [columns]: the second moment of the activation it is multiplied
  /// with.
  const float *importance = nullptr;
  /// The second moments across columns, factored.
  const FactoredHessian *hessian = nullptr;
};

/// One way of quantising. Works on one panel at a time, keeps no state, may be called from several
/// threads. The result depends on the arguments alone, bit for bit and on every CPU.
struct QuantizerInfo {
  std::string_view name; ///< as written after --quantizer=
  std::string_view summary;
  bool usesImportance, usesHessian;
  void (*quantize)(const Panel &panel, const QuantizerInput &input, PanelCodes &out);
};

/// Round to nearest, the clipping range of each group searched for the least squared error.
void quantizeNearest(const Panel &panel, const QuantizerInput &input, PanelCodes &out);
/// The same with each column's error weighted by its importance, the idea of llama.cpp's importance
/// matrix; scale and zero are the weighted least squares solution for their codes.
void quantizeWeighted(const Panel &panel, const QuantizerInput &input, PanelCodes &out);
/// Error feedback with the Hessian and act-order (Frantar et al., GPTQ, arXiv 2210.17323).
void quantizeGptq(const Panel &panel, const QuantizerInput &input, PanelCodes &out);
/// GPTQ, then rounds of least squares for scales and zeros and of coordinate descent over the codes
/// (Behdin et al., QuantEase, arXiv 2309.01885), all on the objective (w - w') H (w - w')^T.
void quantizeDescent(const Panel &panel, const QuantizerInput &input, PanelCodes &out);
/// Half-quadratic optimisation of the zero points under a heavy-tailed loss, without data (Badri
/// and Shaji, HQQ, mobiusml.github.io/hqq_blog, 2023).
void quantizeHqq(const Panel &panel, const QuantizerInput &input, PanelCodes &out);

inline constexpr std::array<QuantizerInfo, 5> kQuantizers{{
    {"rtn", "round to nearest with clipping search", false, false, quantizeNearest},
    {"imatrix", "activation-weighted least squares scales", true, false, quantizeWeighted},
    {"gptq", "error feedback with the Hessian, act-order", true, true, quantizeGptq},
    {"descent", "gptq, then least squares scales and coordinate descent", true, true,
     quantizeDescent},
    {"hqq", "half-quadratic, needs no calibration", false, false, quantizeHqq},
}};

inline constexpr const QuantizerInfo *findQuantizer(std::string_view name) {
  for (const QuantizerInfo &quantizer : kQuantizers)
    if (quantizer.name == name)
      return &quantizer;
  return nullptr;
}

/// The quantiser that measures best (examples/tiny-mixtral/README.md) for a code of `bits` bits
/// with what is known of the activations.
const QuantizerInfo &defaultQuantizer(uint32_t bits, bool hasImportance, bool hasHessian);

} // namespace moeplan::compiler
