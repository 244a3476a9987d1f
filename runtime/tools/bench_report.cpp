#include "runtime/tools/bench_report.h"

#include "runtime/support/units.h"

namespace moeplan::tools {
namespace {

using Json = nlohmann::ordered_json;

Json spreadJson(const std::optional<Spread> &spread) {
  if (!spread)
    return {{"median", nullptr}, {"min", nullptr}, {"max", nullptr}};
  return {{"median", spread->median}, {"min", spread->min}, {"max", spread->max}};
}

Json operationsJson(const moeplan_work &work) {
  Json json;
  for (const Arithmetic &arithmetic : arithmetics)
    json[arithmetic.name] = work.*arithmetic.operations;
  return json;
}

Json kernelJson(const KernelMeasurement &kernel) {
  Json json = {{"phase", kernel.phase},
               {"kernel", kernel.kernel},
               {"implementation", kernel.implementation},
               {"dispatches", kernel.dispatches},
               {"seconds", kernel.seconds},
               {"time_share", kernel.timeShare},
               {"weight_bytes", kernel.work.weight_bytes},
               {"cache_bytes", kernel.work.cache_bytes},
               {"operations", operationsJson(kernel.work)}};
  json["bytes_per_second"] = kernel.bytesPerSecond();
  json["operations_per_second"] = kernel.operationsPerSecond();
  json["floor_share"] = kernel.floorShare;
  return json;
}

/// Nothing where peaks are not known.
std::optional<Spread> known(const Measurement &measurement, const Spread &spread) {
  return measurement.knowsPeaks() ? std::optional(spread) : std::nullopt;
}

/// The facts without the kernels.
Json factsJson(const BenchOptions &options, const Measurement &measurement) {
  Json json = {{"artifact", fileName(options.artifact)},
               {"synthetic", !measurement.syntheticSeed.is_null()},
               {"synthetic_seed", measurement.syntheticSeed},
               {"plan", measurement.plan},
               {"target_cpu", measurement.targetCpu},
               {"threads", measurement.threads},
               {"prompt_tokens", options.promptTokens},
               {"gen_tokens", options.genTokens},
               {"batch", options.batch},
               {"repetitions", options.repetitions},
               {"prefill_tokens_per_second", spreadJson(measurement.prefill)},
               {"decode_tokens_per_second", spreadJson(measurement.decode)},
               {"first_token_seconds", spreadJson(measurement.firstTokenSeconds)},
               {"bytes_per_token", measurement.bytesPerToken},
               {"decode_steps", options.decodeSteps()},
               {"decode_weight_bytes", measurement.decodeWork.weight_bytes},
               {"decode_cache_bytes", measurement.decodeWork.cache_bytes},
               {"read_bandwidth", spreadJson(measurement.readBandwidth)},
               {"bandwidth_share", spreadJson(measurement.bandwidthShare)},
               {"link_bytes", measurement.linkBytes},
               {"link_bandwidth", spreadJson(measurement.linkBandwidth)},
               {"link_share", spreadJson(measurement.linkShare)},
               {"prefill_operations", operationsJson(measurement.prefillWork)}};
  for (const Arithmetic &arithmetic : arithmetics)
    json[std::string(arithmetic.name) + "_peak"] =
        spreadJson(known(measurement, measurement.peaks[arithmetic.id]));
  json["arithmetic_share"] = spreadJson(known(measurement, measurement.arithmeticShare));
  return json;
}

struct CsvLine {
  std::string names, values;
};

CsvLine csvLine(const Json &json) {
  CsvLine line;
  auto add = [&](const std::string &name, const Json &value) {
    const char *separator = line.names.empty() ? "" : ",";
    line.names += separator + name;
    line.values += separator;
    if (!value.is_null())
      line.values += value.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  for (const auto &[name, value] : json.items()) {
    if (!value.is_object())
      add(name, value);
    else
      for (const auto &[inner, innerValue] : value.items())
        add(name + "_" + inner, innerValue);
  }
  return line;
}

std::string percent(double share) { return formatRate(100 * share) + "%"; }

std::string percent(const Spread &share) {
  return percent(share.median) + " (" + percent(share.min) + " to " + percent(share.max) + ")";
}

/// In units of 10^9, as for GB/s and GOP/s.
std::string billions(double value) { return formatRate(value / 1e9); }

/// What experts that the host keeps take.
std::string linkLines(const Measurement &measurement) {
  if (!measurement.linkBandwidth)
    return "";
  return "link from the host: " + formatBytes(measurement.linkBandwidth->median) +
         "/s\nshare of it that decode uses: " + percent(*measurement.linkShare) + "\n";
}

std::string tableRow(std::initializer_list<std::string> cells) {
  std::string row = "|";
  for (const std::string &cell : cells)
    row += " " + cell + " |";
  return row + "\n";
}

std::string ratesTable(const BenchOptions &options, const Measurement &measurement) {
  std::string text = "| artifact | plan | target cpu | threads | test | tokens/s | min | max |\n"
                     "|---|---|---|---:|---|---:|---:|---:|\n";
  auto addRow = [&](const std::string &test, const Spread &spread) {
    text += tableRow({fileName(options.artifact), measurement.plan, measurement.targetCpu,
                      std::to_string(measurement.threads), test, formatRate(spread.median),
                      formatRate(spread.min), formatRate(spread.max)});
  };
  addRow("prefill " + std::to_string(options.promptTokens), measurement.prefill);
  addRow("decode " + std::to_string(options.genTokens) +
             (options.batch > 1 ? ", " + std::to_string(options.batch) + " at a time" : ""),
         measurement.decode);
  return text;
}

std::string arithmeticLines(const Measurement &measurement) {
  if (!measurement.knowsPeaks())
    return "";
  std::string operations, peaks;
  for (const Arithmetic &arithmetic : arithmetics) {
    const std::string separator = operations.empty() ? "" : ", ";
    const auto count = static_cast<double>(measurement.prefillWork.*arithmetic.operations);
    operations += separator + billions(count) + " " + arithmetic.name;
    peaks += separator + billions(measurement.peaks[arithmetic.id].median) + " " + arithmetic.name;
  }
  return "operations of the prefill: " + operations +
         " (10^9)\n"
         "peak of the machine's arithmetic: " +
         peaks +
         " (10^9/s)\nshare of it that prefill uses: " + percent(measurement.arithmeticShare) + "\n";
}

std::string kernelsTable(const Measurement &measurement) {
  std::string text = "\n| phase | kernel | dispatches | ms | share of time | GB/s | GOP/s | share "
                     "of floor |\n|---|---|---:|---:|---:|---:|---:|---:|\n";
  for (const KernelMeasurement &kernel : measurement.kernels)
    text += tableRow({kernel.phase, kernel.kernel, std::to_string(kernel.dispatches),
                      formatRate(1e3 * kernel.seconds), percent(kernel.timeShare),
                      billions(kernel.bytesPerSecond()), billions(kernel.operationsPerSecond()),
                      percent(kernel.floorShare)});
  return text + "\nEach kernel alone: all its dispatches in the prefill or in one decode step. The "
                "floor is what its bytes take at the read bandwidth or its operations at the "
                "peaks, whichever is longer.\n";
}

} // namespace

std::string benchMarkdown(const BenchOptions &options, const Measurement &measurement) {
  std::string text = ratesTable(options, measurement) + "\ntokens/s: median of " +
                     std::to_string(options.repetitions) + " repetitions after a warm-up\n";
  if (!measurement.syntheticSeed.is_null())
    text += "synthetic weights, seed " + measurement.syntheticSeed.dump() + "\n";
  if (options.batch > 1)
    text += "a decode step takes " + std::to_string(options.batch) +
            " tokens of one sequence, which costs the weights of a batch of " +
            std::to_string(options.batch) + " sequences\n";
  text +=
      "weights read per decoded token: " +
      formatBytes(static_cast<double>(measurement.bytesPerToken)) + " alone, " +
      formatBytes(static_cast<double>(measurement.decodeWork.weight_bytes) / options.genTokens) +
      " here\nread bandwidth of the machine: " + formatBytes(measurement.readBandwidth.median) +
      "/s (larger of right before and right after a repetition)\n"
      "share of it that decode uses: " +
      percent(measurement.bandwidthShare) + "\n" + linkLines(measurement) +
      arithmeticLines(measurement);
  if (measurement.firstTokenSeconds)
    text += "seconds from opening the file to the first logits: " +
            formatRate(measurement.firstTokenSeconds->median) + "\n";
  return measurement.kernels.empty() ? text : text + kernelsTable(measurement);
}

Json benchJson(const BenchOptions &options, const Measurement &measurement) {
  Json json = factsJson(options, measurement);
  if (options.kernels)
    for (const KernelMeasurement &kernel : measurement.kernels)
      json["kernels"].push_back(kernelJson(kernel));
  return json;
}

std::string benchCsv(const BenchOptions &options, const Measurement &measurement) {
  const CsvLine facts = csvLine(factsJson(options, measurement));
  std::string text = facts.names + "\n" + facts.values + "\n";
  for (const KernelMeasurement &kernel : measurement.kernels) {
    const CsvLine line = csvLine(kernelJson(kernel));
    if (&kernel == measurement.kernels.data())
      text += "\n" + line.names + "\n";
    text += line.values + "\n";
  }
  return text;
}

} // namespace moeplan::tools
