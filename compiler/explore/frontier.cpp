#include "compiler/explore/frontier.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <charconv>
#include <cmath>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

// One letter per format in the strings of the layers.
static_assert(kFormats.size() <= 26);

StringRef plannerName(const FrontierPoint &point) { return point.isPaper ? "paper" : "moeplan"; }

/// The same text on every machine and in every locale: the shortest that reads back as `value`, or
/// one of `digits` significant digits.
std::string numberText(double value, int digits = 0) {
  char text[64];
  const std::to_chars_result end =
      digits ? std::to_chars(text, std::end(text), value, std::chars_format::general, digits)
             : std::to_chars(text, std::end(text), value);
  return std::string(text, end.ptr);
}

/// One row. RFC 4180 but for the line's end, which is a line feed.
class CsvRow {
public:
  explicit CsvRow(raw_ostream &out) : out(out) {}
  ~CsvRow() { out << '\n'; }

  void text(StringRef value) {
    separate();
    if (value.find_first_of(",\"\r\n") == StringRef::npos) {
      out << value;
      return;
    }
    out << '"';
    for (char c : value) {
      if (c == '"')
        out << '"';
      out << c;
    }
    out << '"';
  }
  void empty() { separate(); }
  void flag(bool value) { text(value ? "true" : "false"); }
  void whole(uint64_t value) {
    separate();
    out << value;
  }
  /// Empty where there is no such number.
  void number(double value) {
    separate();
    if (std::isfinite(value))
      out << numberText(value, 6);
  }

private:
  raw_ostream &out;
  bool first = true;

  void separate() {
    if (!first)
      out << ',';
    first = false;
  }
};

/// An object's attributes, in the order of the calls.
class JsonWriter {
public:
  explicit JsonWriter(raw_ostream &stream) : json(stream, /*IndentSize=*/1) {}

  json::OStream json;

  void text(StringRef key, StringRef value) {
    json.attribute(key, json::isUTF8(value) ? value.str() : json::fixUTF8(value));
  }
  void flag(StringRef key, bool value) { json.attribute(key, value); }
  void whole(StringRef key, uint64_t value) { json.attribute(key, value); }
  /// Null where there is no such number.
  void number(StringRef key, std::optional<double> value) {
    json.attributeBegin(key);
    if (value && std::isfinite(*value))
      json.rawValue(numberText(*value));
    else
      json.value(nullptr);
    json.attributeEnd();
  }
  void memory(StringRef key, const MemoryUse &use) {
    json.attributeObject(key, [&] {
      whole("weights", use.weights);
      whole("kv_cache", use.kvCache);
      whole("activations", use.activations);
      whole("staging", use.staging);
      whole("context", use.context);
      whole("total", use.total());
    });
  }
};

/// Bits of an element of a large matrix, its share of the scales included.
double bitsPerWeight(const FormatInfo &format) {
  constexpr uint64_t kSize = 4096;
  return 8 * double(formatBytes(format, kSize, kSize).value_or(0)) / double(kSize * kSize);
}

/// The formats that any point uses, in the order of the table.
std::vector<const FormatInfo *> usedFormats(const Frontier &frontier) {
  std::vector<const FormatInfo *> used;
  for (const FormatInfo &format : kFormats)
    if (any_of(frontier.points, [&](const FrontierPoint &point) {
          return any_of(point.placement.experts, [&](const ExpertPlacement &expert) {
            return is_contained(expert.formats, &format);
          });
        }))
      used.push_back(&format);
  return used;
}

/// A word per expert: a letter for each of the formats of w1, w3 and w2, 'a' being the first of
/// `formats`, and 'D' or 'H' for device or host memory.
std::string layerText(ArrayRef<ExpertPlacement> experts, ArrayRef<const FormatInfo *> formats) {
  std::string text;
  for (const ExpertPlacement &expert : experts) {
    if (!text.empty())
      text += ' ';
    for (const FormatInfo *format : expert.formats)
      text += char('a' + (find(formats, format) - formats.begin()));
    text += expert.residency == Residency::Device ? 'D' : 'H';
  }
  return text;
}

void writePlacement(JsonWriter &out, const Frontier &frontier, const Placement &placement,
                    ArrayRef<const FormatInfo *> formats) {
  out.text("miss_strategy", missStrategyName(placement.miss));
  out.whole("cache_slots", placement.cacheSlots);
  out.json.attributeArray("layers", [&] {
    ArrayRef<ExpertPlacement> rest = placement.experts;
    while (!rest.empty() && frontier.numExperts) {
      const size_t count = std::min<size_t>(frontier.numExperts, rest.size());
      out.json.value(layerText(rest.take_front(count), formats));
      rest = rest.drop_front(count);
    }
  });
}

void writeCosts(JsonWriter &out, const PlacementCosts &costs) {
  out.number("nats", costs.nats);
  out.number("perplexity_increase", costs.perplexityIncrease);
  out.number("decode_seconds", costs.decodeSeconds);
  out.number("tokens_per_second", costs.tokensPerSecond);
  out.number("prefill_tokens_per_second", costs.prefillTokensPerSecond);
  out.number("bits_per_weight", costs.bitsPerWeight);
  out.whole("experts_on_device", costs.expertsOnDevice);
  out.memory("device_bytes", costs.device);
  out.memory("host_bytes", costs.host);
}

void writeMeasured(JsonWriter &out, const MeasuredPlan &measured) {
  out.number("perplexity", measured.perplexity);
  out.number("perplexity_increase", measured.perplexityIncrease);
  out.number("standard_error", measured.standardError);
  out.number("tokens_per_second", measured.tokensPerSecond);
}

void writePoint(JsonWriter &out, const Frontier &frontier, const FrontierPoint &point,
                ArrayRef<const FormatInfo *> formats) {
  out.text("name", point.name);
  out.text("planner", plannerName(point));
  out.flag("tier", point.isTier);
  out.flag("on_frontier", point.onFrontier);
  out.whole("budget_bytes", point.budgetBytes);
  out.number("gap", point.gap);
  out.json.attributeObject("predicted", [&] { writeCosts(out, point.costs); });
  if (point.measured)
    out.json.attributeObject("measured", [&] { writeMeasured(out, *point.measured); });
  else
    out.json.attribute("measured", nullptr);
  out.json.attributeObject("placement",
                           [&] { writePlacement(out, frontier, point.placement, formats); });
}

/// Whether `a` is no worse than `b` in anything that counts and better in something.
bool beats(const FrontierPoint &a, const FrontierPoint &b, bool hasDevice) {
  bool better = false;
  auto noWorse = [&](auto lessOfA, auto lessOfB) {
    better |= lessOfA < lessOfB;
    return lessOfA <= lessOfB;
  };
  return noWorse(a.costs.perplexityIncrease, b.costs.perplexityIncrease) &&
         noWorse(-a.costs.tokensPerSecond, -b.costs.tokensPerSecond) &&
         noWorse(a.costs.host.total(), b.costs.host.total()) &&
         (!hasDevice || noWorse(a.costs.device.total(), b.costs.device.total())) && better;
}

} // namespace

void compiler::markFrontier(Frontier &frontier) {
  for (FrontierPoint &point : frontier.points)
    point.onFrontier = none_of(frontier.points, [&](const FrontierPoint &other) {
      return beats(other, point, frontier.hasDevice);
    });
}

std::string compiler::frontierCsv(const Frontier &frontier) {
  std::string text;
  raw_string_ostream out(text);
  out << "name,planner,tier,on_frontier,budget_bytes,device_bytes,host_bytes,experts_on_device,"
         "bits_per_weight,miss_strategy,cache_slots,perplexity_increase,tokens_per_second,"
         "prefill_tokens_per_second,gap,measured_perplexity,measured_perplexity_increase,"
         "measured_standard_error,measured_tokens_per_second\n";
  for (const FrontierPoint &point : frontier.points) {
    CsvRow row(out);
    row.text(point.name);
    row.text(plannerName(point));
    row.flag(point.isTier);
    row.flag(point.onFrontier);
    row.whole(point.budgetBytes);
    row.whole(point.costs.device.total());
    row.whole(point.costs.host.total());
    row.whole(point.costs.expertsOnDevice);
    row.number(point.costs.bitsPerWeight);
    row.text(missStrategyName(point.placement.miss));
    row.whole(point.placement.cacheSlots);
    row.number(point.costs.perplexityIncrease);
    row.number(point.costs.tokensPerSecond);
    row.number(point.costs.prefillTokensPerSecond);
    row.number(point.gap);
    if (const std::optional<MeasuredPlan> &measured = point.measured) {
      row.number(measured->perplexity);
      row.number(measured->perplexityIncrease);
      row.number(measured->standardError);
      row.number(measured->tokensPerSecond);
    } else {
      for (int column = 0; column < 4; ++column)
        row.empty();
    }
  }
  return text;
}

std::string compiler::frontierJson(const Frontier &frontier) {
  const std::vector<const FormatInfo *> formats = usedFormats(frontier);
  std::string text;
  raw_string_ostream stream(text);
  JsonWriter out(stream);
  out.json.object([&] {
    out.text("model", frontier.model);
    out.text("profile", frontier.profile);
    out.text("quality_source", frontier.qualitySource);
    out.whole("num_layers", frontier.numLayers);
    out.whole("num_experts", frontier.numExperts);
    out.whole("num_experts_per_tok", frontier.numExpertsPerToken);
    out.whole("context", frontier.context);
    out.whole("batch", frontier.batch);
    out.flag("has_device", frontier.hasDevice);
    out.number("reference_perplexity", frontier.referencePerplexity);
    out.text("layers_notation", "a word per expert: a letter per matrix (w1, w3, w2), a being the "
                                "first of formats; D: in device memory, H: in host memory");
    out.json.attributeArray("formats", [&] {
      for (const FormatInfo *format : formats)
        out.json.object([&] {
          out.text("name", format->name);
          out.whole("bits", format->bits);
          out.number("bits_per_weight", bitsPerWeight(*format));
        });
    });
    out.json.attributeArray("points", [&] {
      for (const FrontierPoint &point : frontier.points)
        out.json.object([&] { writePoint(out, frontier, point, formats); });
    });
  });
  out.json.flush();
  stream << '\n';
  return text;
}
