// Quantising a whole weight: panel by panel, on all threads.
#pragma once

#include "compiler/import/checkpoint.h"
#include "compiler/quantize/quantizer.h"
#include "formats.h"

#include "llvm/Support/Error.h"
#include "llvm/Support/ThreadPool.h"

#include <optional>
#include <string>

namespace moeplan::compiler {

/// A weight in the checkpoint; borrowed.
struct TensorView {
  std::string name; ///< for messages
  DType dtype;
  const uint8_t *data; ///< [rows][columns], row-major; need not be aligned
  uint64_t rows, columns;
};

/// What is known of a linear's input, ready for the quantisers. Owns the factored Hessian.
class Calibration {
public:
  /// Nothing is known.
  Calibration() = default;
  /// `moments` is borrowed. A block of one column is a diagonal: importances, no Hessian.
  Calibration(const SecondMoments &moments, uint64_t tokens, llvm::ThreadPoolInterface &threads);

  QuantizerInput input() const {
    return {importance_.empty() ? nullptr : importance_.data(), hessian_ ? &*hessian_ : nullptr};
  }
  bool hasImportance() const { return !importance_.empty(); }
  bool hasHessian() const { return hessian_.has_value(); }
  /// Whether a Calibration of these has one.
  static bool hasHessian(const SecondMoments &moments) {
    return moments.block > 1 || moments.columns == 1;
  }

private:
  std::vector<float> importance_;
  std::optional<FactoredHessian> hessian_;
};

/// Quantises `weight` to the packed format `format`; `out` has formatBytes() bytes. `calibration`
/// has what `quantizer` needs. Fails, naming tensor and element, where a number is NaN or infinite.
/// Bytes do not depend on the number of threads.
llvm::Error quantizeTensor(const TensorView &weight, const FormatInfo &format,
                           const QuantizerInfo &quantizer, const Calibration &calibration,
                           llvm::MutableArrayRef<uint8_t> out, llvm::ThreadPoolInterface &threads);

/// sum over rows n of row_weights[n] * (w_n - w'_n) H (w_n - w'_n)^T: the squared error that
/// quantising adds to the linear's output, over the tokens that H was summed over; H is the
/// diagonal where that is all there is. `row_weights` may be empty: all one. `max_panels` > 0: from
/// that many panels, evenly spaced, scaled up.
llvm::Expected<double> quantizationError(const TensorView &weight, const FormatInfo &format,
                                         const QuantizerInfo &quantizer,
                                         const Calibration &calibration,
                                         llvm::ArrayRef<float> rowWeights, uint64_t maxPanels,
                                         llvm::ThreadPoolInterface &threads);

} // namespace moeplan::compiler
