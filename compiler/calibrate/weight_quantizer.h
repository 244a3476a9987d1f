// Chooses quantiser and calibration for each weight, and quantises it.
#pragma once

#include "compiler/calibrate/statistics.h"
#include "compiler/quantize/tensor.h"

#include "llvm/ADT/StringMap.h"

#include <set>
#include <string>

namespace moeplan::compiler {

/// Which quantiser serves which format: parsed from `--quantizer`.
class QuantizerChoice {
public:
  /// `rtn`, or `int2=descent,int4g64=gptq,...` where a format without a group size means all of its
  /// group sizes. What is not named gets the default. Empty: the default for all.
  static llvm::Expected<QuantizerChoice> parse(llvm::StringRef text);
  /// Null: the default.
  const QuantizerInfo *find(const FormatInfo &format) const;
  /// The text, for provenance.
  const std::string &text() const { return text_; }
  /// The first chosen quantiser that works from statistics; null where there is none.
  const QuantizerInfo *needsStatistics() const;

private:
  std::string text_;
  const QuantizerInfo *all_ = nullptr;
  llvm::StringMap<const QuantizerInfo *> byFormat_;
};

/// Not thread-safe; uses all threads of its pool itself.
class WeightQuantizer {
public:
  /// Experts that saw fewer calibration tokens than this are quantised as if there was no
  /// calibration.
  static constexpr uint64_t kFewestTokens = 128;

  /// `statistics` is borrowed and may be null.
  WeightQuantizer(const Statistics *statistics, QuantizerChoice choice, unsigned threads = 0)
      : statistics_(statistics), choice_(std::move(choice)),
        threads_(llvm::hardware_concurrency(threads)) {}

  /// Quantises the weight that the model calls `name` ("layers.3.experts.5.w2"). `out` has
  /// formatBytes() bytes.
  llvm::Error quantize(llvm::StringRef name, const TensorView &tensor, const FormatInfo &format,
                       llvm::MutableArrayRef<uint8_t> out);
  /// Names what decides the outcome of quantize() besides the tensor: the quantiser, and the
  /// moments that it works from. May be called from any thread at any time.
  std::string recipe(llvm::StringRef name, const FormatInfo &format) const;
  /// See quantizationError().
  llvm::Expected<double> error(llvm::StringRef name, const TensorView &tensor,
                               const FormatInfo &format, llvm::ArrayRef<float> rowWeights,
                               uint64_t maxPanels);

  /// Adds the expert of a weight that somebody else quantised to hardlyReached(), where it is one.
  void noteUse(llvm::StringRef name, const FormatInfo &format);
  /// Experts whose statistics were passed over, as "layers.3.experts.5".
  const std::set<std::string> &hardlyReached() const { return hardlyReached_; }
  llvm::ThreadPoolInterface &threads() { return threads_; }

private:
  struct Chosen {
    const QuantizerInfo *quantizer;
    bool usesCalibration;
    bool hardlyReached; ///< it would, with more tokens
  };
  Chosen choose(llvm::StringRef name, const FormatInfo &format) const;
  const Calibration &calibrationOf(llvm::StringRef name);

  const Statistics *statistics_;
  QuantizerChoice choice_;
  llvm::DefaultThreadPool threads_;
  std::set<std::string> hardlyReached_;
  Calibration none_;
  /// The last two, for the two inputs of the expert that is being quantised.
  struct Cached {
    std::string key;
    std::unique_ptr<Calibration> calibration;
  } cache_[2];
};

} // namespace moeplan::compiler
