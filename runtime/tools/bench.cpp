// `moeplan bench`: tokens per second, beside what the machine's memory allows.
#include "runtime/tools/common.h"

#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <random>

namespace moeplan::tools {
namespace {

using Clock = std::chrono::steady_clock;

// Larger than the last-level cache of any current CPU, so that memory is what is measured.
constexpr uint64_t bandwidthBufferBytes = uint64_t{1} << 30;
constexpr uint32_t bandwidthRepetitions = 3;

struct Options {
  std::string artifact;
  std::string plan;
  uint32_t promptTokens = 512;
  uint32_t genTokens = 128;
  ThreadOptions threads;
  uint32_t repetitions = 5;
  std::string output = "md";
};

struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};

struct Measurement {
  nlohmann::ordered_json syntheticSeed; // null: the weights are in the file
  Spread prefill;                       // tokens per second
  Spread decode;                        // tokens per second
  double readBandwidth = 0;             // bytes per second
  uint64_t bytesPerToken = 0;
  /// Share of the read bandwidth that decoding uses for weights alone.
  double bandwidthShare() const {
    return decode.median * static_cast<double>(bytesPerToken) / readBandwidth;
  }
};

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

/// Any ids do: the work of a dense layer does not depend on them, and random ones visit all
/// experts.
std::vector<int32_t> randomTokens(size_t count, uint32_t vocabSize) {
  std::mt19937 random(1); // fixed, and specified by the standard
  std::vector<int32_t> tokens(count);
  for (int32_t &token : tokens)
    token = static_cast<int32_t>(random() % vocabSize);
  return tokens;
}

double readBandwidth(uint32_t threads) {
  double bytesPerSecond = 0;
  check(moeplan_measure_read_bandwidth(threads, bandwidthBufferBytes, bandwidthRepetitions,
                                       &bytesPerSecond));
  return bytesPerSecond;
}

Measurement measure(const Options &options, moeplan_session &session, uint32_t vocabSize) {
  const auto prompt = randomTokens(options.promptTokens, vocabSize);
  const auto generated = randomTokens(options.genTokens, vocabSize);
  const uint32_t threads = moeplan_session_threads(&session);
  const uint64_t total = (uint64_t{options.repetitions} + 1) * (prompt.size() + generated.size());
  std::vector<double> prefill;
  std::vector<double> decode;
  Measurement result;
  result.bytesPerToken = moeplan_session_weight_bytes_per_token(&session);

  result.readBandwidth = readBandwidth(threads);
  Progress progress("bench", total, "tokens");
  for (uint32_t repetition = 0; repetition <= options.repetitions; ++repetition) {
    moeplan_session_reset(&session);
    auto start = Clock::now();
    check(moeplan_session_append(&session, prompt.data(), prompt.size(), 1));
    const double prefillSeconds = secondsSince(start);
    progress.advance(prompt.size());
    start = Clock::now();
    for (const int32_t &token : generated)
      check(moeplan_session_append(&session, &token, 1, 1));
    const double decodeSeconds = secondsSince(start);
    progress.advance(generated.size());
    if (repetition == 0) // touches the weights and the KV cache for the first time
      continue;
    prefill.push_back(static_cast<double>(prompt.size()) / std::max(prefillSeconds, 1e-9));
    decode.push_back(static_cast<double>(generated.size()) / std::max(decodeSeconds, 1e-9));
  }
  progress.finish();
  // Other work on the machine only ever lowers what is measured.
  result.readBandwidth = std::max(result.readBandwidth, readBandwidth(threads));
  result.prefill = spread(prefill);
  result.decode = spread(decode);
  return result;
}

/// One key per fact, in the order of the columns of the CSV.
nlohmann::ordered_json toJson(const Options &options, const moeplan_session &session,
                              const Measurement &measurement) {
  auto spreadJson = [](const Spread &spread) {
    return nlohmann::ordered_json{
        {"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
  };
  return {{"artifact", fileName(options.artifact)},
          {"synthetic", !measurement.syntheticSeed.is_null()},
          {"synthetic_seed", measurement.syntheticSeed},
          {"plan", moeplan_session_plan_name(&session)},
          {"target_cpu", moeplan_session_target_cpu(&session)},
          {"threads", moeplan_session_threads(&session)},
          {"prompt_tokens", options.promptTokens},
          {"gen_tokens", options.genTokens},
          {"repetitions", options.repetitions},
          {"prefill_tokens_per_second", spreadJson(measurement.prefill)},
          {"decode_tokens_per_second", spreadJson(measurement.decode)},
          {"bytes_per_token", measurement.bytesPerToken},
          {"read_bandwidth", measurement.readBandwidth},
          {"bandwidth_share", measurement.bandwidthShare()}};
}

/// A line of column names and a line of values; nested keys are joined: "..._per_second_median".
std::string toCsv(const nlohmann::ordered_json &json) {
  std::string names;
  std::string values;
  auto add = [&](const std::string &name, const nlohmann::ordered_json &value) {
    names += (names.empty() ? "" : ",") + name;
    values += (values.empty() ? "" : ",");
    if (!value.is_null())
      values += value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  for (const auto &[name, value] : json.items()) {
    if (!value.is_object())
      add(name, value);
    else
      for (const auto &[inner, innerValue] : value.items())
        add(name + "_" + inner, innerValue);
  }
  return names + "\n" + values + "\n";
}

std::string toMarkdown(const Options &options, const moeplan_session &session,
                       const Measurement &measurement) {
  std::string text = "| artifact | plan | target cpu | threads | test | tokens/s | min | max |\n"
                     "|---|---|---|---:|---|---:|---:|---:|\n";
  auto addRow = [&](const std::string &test, const Spread &spread) {
    text += "| " + fileName(options.artifact) + " | " + moeplan_session_plan_name(&session) +
            " | " + moeplan_session_target_cpu(&session) + " | " +
            std::to_string(moeplan_session_threads(&session)) + " | " + test + " | " +
            formatRate(spread.median) + " | " + formatRate(spread.min) + " | " +
            formatRate(spread.max) + " |\n";
  };
  addRow("prefill " + std::to_string(options.promptTokens), measurement.prefill);
  addRow("decode " + std::to_string(options.genTokens), measurement.decode);
  return text + "\ntokens/s: median of " + std::to_string(options.repetitions) +
         " repetitions after a warm-up\n" +
         (measurement.syntheticSeed.is_null()
              ? ""
              : "synthetic weights, seed " + measurement.syntheticSeed.dump() + "\n") +
         "weights read per decoded token: " +
         formatBytes(static_cast<double>(measurement.bytesPerToken)) +
         "\nread bandwidth of the machine: " + formatBytes(measurement.readBandwidth) +
         "/s (larger of before and after)\nshare of it that decode uses: " +
         formatRate(100 * measurement.bandwidthShare()) + "%\n";
}

void bench(const Options &options) {
  const auto artifact = openArtifact(options.artifact);
  const uint64_t positions = uint64_t{options.promptTokens} + options.genTokens;
  if (positions > UINT32_MAX)
    throw Failure("--prompt-tokens and --gen-tokens are too large together");
  const auto session =
      createSession(*artifact, options.plan, static_cast<uint32_t>(positions), options.threads);
  Measurement measurement =
      measure(options, *session, moeplan_artifact_model_info(artifact.get()).vocab_size);
  measurement.syntheticSeed = syntheticSeed(*artifact);
  if (options.output == "md") {
    writeOutput(toMarkdown(options, *session, measurement));
    return;
  }
  const auto json = toJson(options, *session, measurement);
  if (options.output == "csv")
    writeOutput(toCsv(json));
  else
    writeJson(json);
}

} // namespace

Command addBenchCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("bench", "Measure prefill and decode speed");
  auto options = std::make_shared<Options>();
  addArtifactArgument(*command, options->artifact);
  addPlanOption(*command, options->plan);
  auto addCount = [&](const char *name, uint32_t &value, const char *description) {
    command->add_option(name, value, description)
        ->capture_default_str()
        ->check(positive())
        ->type_name("N");
  };
  addCount("--prompt-tokens", options->promptTokens, "Tokens of the prefill");
  addCount("--gen-tokens", options->genTokens, "Tokens decoded one by one behind them");
  addThreadOptions(*command, options->threads);
  addCount("--repetitions", options->repetitions, "Timed runs, after one warm-up");
  command->add_option("--output", options->output, "md, csv or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"md", "csv", "json"}).description(""))
      ->type_name("FORM");
  command->footer("Example:\n  moeplan bench tiny.moeplan --prompt-tokens 128 --gen-tokens 64 "
                  "--repetitions 5 --output=md");
  return {command, [options] { bench(*options); }};
}

} // namespace moeplan::tools
