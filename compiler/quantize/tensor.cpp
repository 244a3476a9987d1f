#include "compiler/quantize/tensor.h"

#include "compiler/quantize/panel.h"

#include <atomic>
#include <cmath>
#include <mutex>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Loads every `stride`-th panel of a weight and gives it to `visit`, on all threads. The first
/// panel with a number that is none, in the order of the weight, is the error.
Error forEachPanel(const TensorView &weight, uint64_t stride, ThreadPoolInterface &threads,
                   function_ref<void(uint64_t index, const Panel &)> visit) {
  const uint64_t panels = (weight.rows + kLanes - 1) / kLanes;
  const uint64_t rowBytes = weight.columns * dtypeBytes(weight.dtype);
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  std::optional<PanelPosition> bad;
  auto work = [&] {
    Panel panel(weight.columns);
    for (uint64_t index; (index = next.fetch_add(stride)) < panels;) {
      const uint64_t row = index * kLanes, rows = std::min<uint64_t>(kLanes, weight.rows - row);
      if (auto position = loadPanel(weight.dtype, weight.data + row * rowBytes, rows, panel)) {
        std::lock_guard lock(mutex);
        if (!bad || row + position->row < bad->row)
          bad = {row + position->row, position->column};
        continue;
      }
      visit(index, panel);
    }
  };
  ThreadPoolTaskGroup group(threads);
  for (unsigned i = 1; i < threads.getMaxConcurrency(); ++i)
    group.async(work);
  work();
  group.wait();
  if (!bad)
    return Error::success();
  return createStringError(weight.name + ": row " + Twine(bad->row) + ", column " +
                           Twine(bad->column) +
                           " is NaN or infinite and cannot be quantised; repair the checkpoint, or "
                           "keep this weight in bf16");
}

/// e H e^T of each row, for one panel.
template <typename F>
MOEPLAN_LANES_INLINE void quadraticFormsOfRows(const FactoredHessian &hessian, Rows<F> error,
                                               double *out) {
  for (const HessianBlock &block : hessian.blocks()) {
    const Rows<F> e = error + block.begin;
    for (uint64_t i = 0; i < block.size; ++i) {
      F sum{};
      const float *row = block.matrix.data() + i * block.size;
      for (uint64_t j = 0; j < block.size; ++j)
        sum += e[j] * row[j];
      sum *= e[i];
      for (unsigned r = 0; r < kRowsOf<F>; ++r)
        out[r] += double(sum[r]);
    }
  }
}
MOEPLAN_BY_INSTRUCTION_SET(quadraticForms,
                           (const FactoredHessian &hessian, float *error, double *out),
                           (hessian, error, out),
                           MOEPLAN_FOR_ROWS(quadraticFormsOfRows(hessian, Rows<F>(error, row),
                                                                 out + row)))

template <typename F>
MOEPLAN_LANES_INLINE void weightedSquaresOfRows(const float *importance, Rows<F> error,
                                                uint64_t columns, double *out) {
  for (uint64_t k = 0; k < columns; ++k) {
    const F square = error[k] * error[k] * (importance ? importance[k] : 1.0f);
    for (unsigned r = 0; r < kRowsOf<F>; ++r)
      out[r] += double(square[r]);
  }
}
MOEPLAN_BY_INSTRUCTION_SET(weightedSquares,
                           (const float *importance, float *error, uint64_t columns, double *out),
                           (importance, error, columns, out),
                           MOEPLAN_FOR_ROWS(weightedSquaresOfRows(importance, Rows<F>(error, row),
                                                                  columns, out + row)))

Error checkInput(const TensorView &weight, const QuantizerInfo &quantizer,
                 const Calibration &calibration) {
  if ((quantizer.usesImportance && !calibration.hasImportance()) ||
      (quantizer.usesHessian && !calibration.hasHessian()))
    return createStringError(weight.name + ": quantiser '" + std::string(quantizer.name) +
                             "' needs calibration that there is not");
  return Error::success();
}

} // namespace

Calibration::Calibration(const SecondMoments &moments, uint64_t tokens,
                         ThreadPoolInterface &threads)
    : importance_(diagonalOf(moments)) {
  if (hasHessian(moments))
    hessian_.emplace(moments, tokens, threads);
}

Error moeplan::compiler::quantizeTensor(const TensorView &weight, const FormatInfo &format,
                                        const QuantizerInfo &quantizer,
                                        const Calibration &calibration,
                                        MutableArrayRef<uint8_t> out,
                                        ThreadPoolInterface &threads) {
  if (Error error = checkInput(weight, quantizer, calibration))
    return error;
  const WeightShape tile{format.bits, format.groupSize, kLanes, weight.columns};
  const uint64_t tileBytes = tiled::tileBytes(tile);
  return forEachPanel(weight, 1, threads, [&](uint64_t index, const Panel &panel) {
    PanelCodes numbers(format, weight.columns);
    quantizer.quantize(panel, calibration.input(), numbers);
    packPanel(numbers, tile, out.data() + index * tileBytes);
  });
}

Expected<double>
moeplan::compiler::quantizationError(const TensorView &weight, const FormatInfo &format,
                                     const QuantizerInfo &quantizer, const Calibration &calibration,
                                     ArrayRef<float> rowWeights, uint64_t maxPanels,
                                     ThreadPoolInterface &threads) {
  if (Error error = checkInput(weight, quantizer, calibration))
    return error;
  const uint64_t panels = (weight.rows + kLanes - 1) / kLanes;
  const uint64_t stride = maxPanels ? std::max<uint64_t>(1, panels / maxPanels) : 1;
  std::vector<double> errors(panels);
  const QuantizerInput input = calibration.input();
  Error failed = forEachPanel(weight, stride, threads, [&](uint64_t index, const Panel &panel) {
    PanelCodes numbers(format, weight.columns);
    quantizer.quantize(panel, input, numbers);
    LaneBuffer error(weight.columns);
    panelError(panel, numbers, error.data());
    double rows[kLanes] = {};
    if (input.hessian)
      quadraticForms(*input.hessian, error.data(), rows);
    else
      weightedSquares(input.importance, error.data(), weight.columns, rows);
    for (uint64_t r = 0, n = index * kLanes; r < kLanes && n < weight.rows; ++r, ++n)
      errors[index] += rows[r] * (rowWeights.empty() ? 1.0 : double(rowWeights[n]));
  });
  if (failed)
    return failed;
  double sum = 0;
  for (double error : errors)
    sum += error;
  const uint64_t visited = (panels + stride - 1) / stride;
  return sum * double(panels) / double(visited);
}
