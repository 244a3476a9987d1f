#include "compiler/calibrate/weight_quantizer.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

std::string knownQuantizers() {
  std::string names;
  for (const QuantizerInfo &quantizer : kQuantizers)
    names.append(names.empty() ? "'" : ", '").append(quantizer.name).append("'");
  return names;
}

Expected<const QuantizerInfo *> quantizerNamed(StringRef name) {
  if (const QuantizerInfo *found = findQuantizer(std::string_view(name)))
    return found;
  return createStringError("unknown quantiser '" + name + "' (known: " + knownQuantizers() + ")");
}

} // namespace

Expected<QuantizerChoice> QuantizerChoice::parse(StringRef text) {
  QuantizerChoice choice;
  choice.text_ = text.str();
  SmallVector<StringRef> entries;
  text.split(entries, ',', -1, /*KeepEmpty=*/false);
  for (StringRef entry : entries) {
    auto [format, name] = entry.split('=');
    const bool forAll = !entry.contains('=');
    auto quantizer = quantizerNamed(forAll ? entry : name);
    if (!quantizer)
      return quantizer.takeError();
    if (forAll) {
      choice.all_ = *quantizer;
      continue;
    }
    bool matched = false;
    for (const FormatInfo &each : kFormats)
      if (each.isPacked() &&
          (format == StringRef(each.name) || format == "int" + std::to_string(each.bits))) {
        choice.byFormat_[each.name] = *quantizer;
        matched = true;
      }
    if (!matched)
      return createStringError("--quantizer: '" + format + "' is no format that is quantised");
  }
  return choice;
}

const QuantizerInfo *QuantizerChoice::find(const FormatInfo &format) const {
  auto found = byFormat_.find(format.name);
  return found == byFormat_.end() ? all_ : found->second;
}

const QuantizerInfo *QuantizerChoice::needsStatistics() const {
  if (all_ && all_->usesImportance)
    return all_;
  for (const auto &entry : byFormat_)
    if (entry.second->usesImportance)
      return entry.second;
  return nullptr;
}

const Calibration *WeightQuantizer::calibrationOf(StringRef name, bool evenIfHardlyReached) {
  const std::optional<ExpertLinear> linear = ExpertLinear::parse(name);
  if (!statistics_ || !linear)
    return &none_;
  const uint64_t tokens = statistics_->expert(linear->layer, linear->expert).tokens();
  const StringRef expert = name.rsplit('.').first;
  if (tokens < kFewestTokens && !evenIfHardlyReached) {
    hardlyReached_.insert(expert.str());
    return &none_;
  }
  const bool down = linear->linear == Linear::w2;
  const std::string key = (expert + (down ? ".hidden" : ".input")).str();
  Cached &cached = cache_[down];
  if (cached.key != key) {
    cached.calibration = std::make_unique<Calibration>(statistics_->moments(*linear), tokens);
    cached.key = key;
  }
  return cached.calibration.get();
}

WeightQuantizer::Chosen WeightQuantizer::choose(StringRef name, const FormatInfo &format) {
  const QuantizerInfo *quantizer = choice_.find(format);
  // Without need for it, a Hessian is not worth its factoring.
  const bool wanted = quantizer ? quantizer->usesImportance
                                : defaultQuantizer(format.bits, true, true).usesImportance;
  const Calibration *calibration = wanted ? calibrationOf(name) : &none_;
  const bool usable = quantizer && (!quantizer->usesImportance || calibration->hasImportance()) &&
                      (!quantizer->usesHessian || calibration->hasHessian());
  if (!usable)
    quantizer =
        &defaultQuantizer(format.bits, calibration->hasImportance(), calibration->hasHessian());
  return {quantizer, calibration};
}

Error WeightQuantizer::quantize(StringRef name, const TensorView &tensor, const FormatInfo &format,
                                MutableArrayRef<uint8_t> out) {
  const Chosen chosen = choose(name, format);
  return quantizeTensor(tensor, format, *chosen.quantizer, *chosen.calibration, out, threads_);
}

Expected<double> WeightQuantizer::error(StringRef name, const TensorView &tensor,
                                        const FormatInfo &format, ArrayRef<float> rowWeights,
                                        uint64_t maxPanels) {
  // The error is weighed with the statistics even where the quantiser has no use for them, or they
  // are too few to quantise with.
  const QuantizerInfo *quantizer = choose(name, format).quantizer;
  return quantizationError(tensor, format, *quantizer, *calibrationOf(name, true), rowWeights,
                           maxPanels, threads_);
}
