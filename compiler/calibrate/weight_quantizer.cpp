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

/// Factored moments of the input of an expert's linear; nothing where there are none.
const Calibration &WeightQuantizer::calibrationOf(StringRef name) {
  const std::optional<ExpertLinear> linear = ExpertLinear::parse(name);
  if (!statistics_ || !linear)
    return none_;
  const bool down = linear->linear == Linear::w2;
  const std::string key = linear->expertName() + (down ? ".hidden" : ".input");
  Cached &cached = cache_[down];
  if (cached.key != key) {
    cached.calibration.reset(); // before the next: both may be large
    cached.calibration = std::make_unique<Calibration>(
        statistics_->moments(*linear), statistics_->expert(linear->layer, linear->expert).tokens(),
        threads_);
    cached.key = key;
    statistics_->release(*linear);
  }
  return *cached.calibration;
}

WeightQuantizer::Chosen WeightQuantizer::choose(StringRef name, const FormatInfo &format) const {
  const QuantizerInfo *quantizer = choice_.find(format);
  // Without need for it, a Hessian is not worth its factoring.
  const bool wanted = quantizer ? quantizer->usesImportance
                                : defaultQuantizer(format.bits, true, true).usesImportance;
  const std::optional<ExpertLinear> linear = ExpertLinear::parse(name);
  if (!wanted || !statistics_ || !linear)
    return {quantizer && !quantizer->usesImportance ? quantizer
                                                    : &defaultQuantizer(format.bits, false, false),
            false, false};
  if (statistics_->expert(linear->layer, linear->expert).tokens() < kFewestTokens)
    return {&defaultQuantizer(format.bits, false, false), false, true};
  const bool hasHessian = Calibration::hasHessian(statistics_->moments(*linear));
  if (!quantizer || (quantizer->usesHessian && !hasHessian))
    quantizer = &defaultQuantizer(format.bits, true, hasHessian);
  return {quantizer, quantizer->usesImportance, false};
}

std::string WeightQuantizer::recipe(StringRef name, const FormatInfo &format) const {
  const Chosen chosen = choose(name, format);
  std::string recipe(chosen.quantizer->name);
  if (!chosen.usesCalibration)
    return recipe;
  const ExpertLinear linear = *ExpertLinear::parse(name);
  return recipe + " " + statistics_->momentsDigest(linear) + " " +
         std::to_string(statistics_->expert(linear.layer, linear.expert).tokens());
}

void WeightQuantizer::noteUse(StringRef name, const FormatInfo &format) {
  if (choose(name, format).hardlyReached)
    hardlyReached_.insert(ExpertLinear::parse(name)->expertName());
}

Error WeightQuantizer::quantize(StringRef name, const TensorView &tensor, const FormatInfo &format,
                                MutableArrayRef<uint8_t> out) {
  noteUse(name, format);
  const Chosen chosen = choose(name, format);
  return quantizeTensor(tensor, format, *chosen.quantizer,
                        chosen.usesCalibration ? calibrationOf(name) : none_, out, threads_);
}

Expected<double> WeightQuantizer::error(StringRef name, const TensorView &tensor,
                                        const FormatInfo &format, ArrayRef<float> rowWeights,
                                        uint64_t maxPanels) {
  noteUse(name, format);
  // The error is weighed with the statistics even where the quantiser has no use for them, or they
  // are too few to quantise with.
  return quantizationError(tensor, format, *choose(name, format).quantizer, calibrationOf(name),
                           rowWeights, maxPanels, threads_);
}
