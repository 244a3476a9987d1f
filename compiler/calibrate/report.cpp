#include "compiler/calibrate/report.h"

#include "compiler/calibrate/weight_quantizer.h"
#include "formats.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <map>
#include <numeric>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

std::vector<double> ranks(ArrayRef<double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t(0));
  sort(order, [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]])
      ++end;
    for (size_t i = begin; i < end; ++i)
      result[order[i]] = double(begin + end - 1) / 2;
    begin = end;
  }
  return result;
}

StringRef formatName(const fb::Sensitivity &s) {
  return StringRef(findFormat(uint32_t(s.format()))->name);
}

/// Predicted and measured values of the rows of one format.
struct Columns {
  std::vector<double> predicted, divergence, increase;
  void add(const fb::Sensitivity &s) {
    predicted.push_back(s.predicted());
    divergence.push_back(s.measured_divergence());
    increase.push_back(s.measured_increase());
  }
};

std::map<uint16_t, Columns> measuredColumns(const Statistics &statistics) {
  std::map<uint16_t, Columns> byFormat;
  for (const fb::Sensitivity *s : *statistics.metadata().sensitivities())
    if (s->measured())
      byFormat[s->format()].add(*s);
  return byFormat;
}

void printRouting(raw_ostream &out, const Statistics &statistics) {
  const fb::Statistics &m = statistics.metadata();
  out << "\nrouting, tokens per expert\n  layer     fewest       mean       most\n";
  for (uint32_t layer = 0; layer < m.num_layers(); ++layer) {
    uint64_t fewest = UINT64_MAX, most = 0, sum = 0;
    for (uint32_t e = 0; e < m.num_experts(); ++e) {
      const uint64_t tokens = statistics.expert(layer, e).tokens();
      fewest = std::min(fewest, tokens);
      most = std::max(most, tokens);
      sum += tokens;
    }
    out << format("  %5u %10llu %10llu %10llu\n", layer, static_cast<unsigned long long>(fewest),
                  static_cast<unsigned long long>(sum / m.num_experts()),
                  static_cast<unsigned long long>(most));
  }
  const std::vector<std::string> unreached = hardlyReachedExperts(statistics);
  if (!unreached.empty())
    out << "  hardly reached, to be quantised without calibration: " << join(unreached, ", ")
        << "\n";
}

/// Means over the experts of a layer, one line per kind of linear.
void printSensitivities(raw_ostream &out, const Statistics &statistics) {
  const auto &rows = *statistics.metadata().sensitivities();
  if (rows.size() == 0)
    return;
  struct Cell {
    double predicted = 0, divergence = 0;
    unsigned count = 0, measured = 0;
  };
  std::vector<uint16_t> formats;
  std::map<std::tuple<uint32_t, uint16_t, uint16_t>, Cell> cells;
  for (const fb::Sensitivity *s : rows) {
    if (!is_contained(formats, s->format()))
      formats.push_back(s->format());
    Cell &cell = cells[{s->layer(), s->linear(), s->format()}];
    cell.predicted += s->predicted();
    ++cell.count;
    if (s->measured()) {
      cell.divergence += s->measured_divergence();
      ++cell.measured;
    }
  }
  out << "\nsensitivities, 1e-6 nats per token for one expert, mean over the experts of a layer\n"
         "(predicted; in brackets the measured divergence)\n  linear      ";
  for (uint16_t format : formats)
    out << llvm::format(" %20s", std::string(findFormat(uint32_t(format))->name).c_str());
  out << "\n";
  for (uint32_t layer = 0; layer < statistics.metadata().num_layers(); ++layer)
    for (uint16_t linear = 0; linear < 3; ++linear) {
      out << llvm::format("  %-12s",
                          ("layers." + Twine(layer) + "." + kLinearNames[linear]).str().c_str());
      for (uint16_t format : formats) {
        const Cell &cell = cells[{layer, linear, format}];
        std::string text;
        raw_string_ostream stream(text);
        stream << llvm::format("%.3f", 1e6 * cell.predicted / std::max(cell.count, 1u));
        if (cell.measured)
          stream << llvm::format(" (%.3f)", 1e6 * cell.divergence / cell.measured);
        out << llvm::format(" %20s", text.c_str());
      }
      out << "\n";
    }

  const std::map<uint16_t, Columns> measured = measuredColumns(statistics);
  if (measured.empty())
    return;
  out << "\nrank correlation of predicted with measured (Spearman)\n"
         "  format       swaps   divergence   increase of the nll\n";
  auto line = [&](StringRef name, const Columns &columns) {
    auto number = [](std::optional<double> value) {
      return value ? llvm::formatv("{0:F3}", *value).str() : std::string("-");
    };
    out << llvm::format("  %-10s %7zu %12s %21s\n", name.str().c_str(), columns.predicted.size(),
                        number(rankCorrelation(columns.predicted, columns.divergence)).c_str(),
                        number(rankCorrelation(columns.predicted, columns.increase)).c_str());
  };
  Columns all;
  for (const fb::Sensitivity *s : rows)
    if (s->measured())
      all.add(*s);
  for (const auto &[format, columns] : measured)
    line(StringRef(findFormat(uint32_t(format))->name), columns);
  line("all", all);
}

} // namespace

std::optional<double> moeplan::compiler::rankCorrelation(ArrayRef<double> a, ArrayRef<double> b) {
  if (a.size() < 2 || a.size() != b.size())
    return std::nullopt;
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double mean = double(a.size() - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  if (xx == 0 || yy == 0)
    return std::nullopt;
  return xy / std::sqrt(xx * yy);
}

std::vector<std::string> moeplan::compiler::hardlyReachedExperts(const Statistics &statistics) {
  std::vector<std::string> names;
  const fb::Statistics &m = statistics.metadata();
  for (uint32_t layer = 0; layer < m.num_layers(); ++layer)
    for (uint32_t e = 0; e < m.num_experts(); ++e)
      if (statistics.expert(layer, e).tokens() < WeightQuantizer::kFewestTokens)
        names.push_back(ExpertLinear{layer, e, Linear::w1}.expertName());
  return names;
}

std::string moeplan::compiler::printStatistics(const Statistics &statistics) {
  const fb::Statistics &m = statistics.metadata();
  std::string text;
  raw_string_ostream out(text);
  auto moments = [](const fb::Moments &moments, uint32_t columns) {
    if (moments.block() == columns)
      return std::string("full");
    return moments.block() == 1 ? std::string("diagonal")
                                : "blocks of " + std::to_string(moments.block());
  };
  const fb::ExpertStatistics &first = statistics.expert(0, 0);
  out << "calibrated on " << m.tokens() << " tokens in " << m.windows() << " windows of "
      << m.context() << "; " << m.held_out_windows() << " held out, "
      << llvm::format("%.4f", m.held_out_nll()) << " nats per token there\n"
      << "second moments: " << moments(*first.input(), m.hidden_size()) << " of w1 and w3, "
      << moments(*first.hidden(), m.intermediate_size()) << " of w2\n"
      << "checkpoint " << m.checkpoint_digest()->c_str() << ", text " << m.text_digest()->c_str()
      << "\n";
  printRouting(out, statistics);
  printSensitivities(out, statistics);
  return text;
}

std::string moeplan::compiler::statisticsJson(const Statistics &statistics) {
  const fb::Statistics &m = statistics.metadata();
  std::string text;
  raw_string_ostream stream(text);
  json::OStream out(stream, 2);
  out.object([&] {
    out.attribute("compiler_version", m.compiler_version()->c_str());
    out.attribute("checkpoint_digest", m.checkpoint_digest()->c_str());
    out.attribute("text_digest", m.text_digest()->c_str());
    out.attribute("context", m.context());
    out.attribute("windows", m.windows());
    out.attribute("held_out_windows", m.held_out_windows());
    out.attribute("held_out_nll", m.held_out_nll());
    out.attribute("tokens", int64_t(m.tokens()));
    out.attributeArray("experts", [&] {
      for (uint32_t layer = 0; layer < m.num_layers(); ++layer)
        for (uint32_t e = 0; e < m.num_experts(); ++e) {
          const fb::ExpertStatistics &expert = statistics.expert(layer, e);
          out.object([&] {
            out.attribute("expert", ExpertLinear{layer, e, Linear::w1}.expertName());
            out.attribute("tokens", int64_t(expert.tokens()));
            out.attribute("routing_weight", expert.routing_weight());
            out.attribute("input_block", expert.input()->block());
            out.attribute("hidden_block", expert.hidden()->block());
            out.attribute("hardly_reached", expert.tokens() < WeightQuantizer::kFewestTokens);
          });
        }
    });
    out.attributeArray("sensitivities", [&] {
      for (const fb::Sensitivity *s : *m.sensitivities())
        out.object([&] {
          out.attribute("linear",
                        ExpertLinear{s->layer(), s->expert(), Linear(s->linear())}.name());
          out.attribute("format", formatName(*s));
          out.attribute("predicted", s->predicted());
          if (!s->measured())
            return;
          out.attribute("measured_divergence", s->measured_divergence());
          out.attribute("measured_increase", s->measured_increase());
          out.attribute("standard_error", s->standard_error());
        });
    });
    Columns all;
    for (const fb::Sensitivity *s : *m.sensitivities())
      if (s->measured())
        all.add(*s);
    if (auto correlation = rankCorrelation(all.predicted, all.divergence))
      out.attribute("rank_correlation_divergence", *correlation);
    if (auto correlation = rankCorrelation(all.predicted, all.increase))
      out.attribute("rank_correlation_increase", *correlation);
  });
  return text + "\n";
}
