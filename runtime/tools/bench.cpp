// `moeplan bench`: tokens per second, beside what the machine's memory and arithmetic allow.
#include "runtime/tools/bench_report.h"

namespace moeplan::tools {
namespace {

constexpr const char *footer = R"(Example:
  moeplan bench tiny.moeplan --prompt-tokens 128 --gen-tokens 64 --repetitions 5 --output=md

Shares are what counts, since a machine's rates vary from minute to minute:
  decode   bytes of weights (each distinct expert of a step once) per second, of the read bandwidth
  prefill  seconds that the operations done take at the peak of their arithmetic, of the time taken
Bandwidth and peaks are measured right before and right after every repetition, and the larger
counts. With --batch N a decode step takes N tokens of one sequence and computes the logits of all,
which costs the weights of a batch of N sequences. Keys of the JSON: tests/bench/README.md.)";

void bench(const BenchOptions &options) {
  const Measurement measurement = measureBench(options);
  if (options.output == "md")
    writeOutput(benchMarkdown(options, measurement));
  else if (options.output == "csv")
    writeOutput(benchCsv(options, measurement));
  else
    writeJson(benchJson(options, measurement));
}

} // namespace

Command addBenchCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("bench", "Measure prefill and decode speed");
  auto options = std::make_shared<BenchOptions>();
  addArtifactArgument(*command, options->artifact);
  addPlanOption(*command, options->plan);
  auto addCount = [&](const char *name, uint32_t &value, const char *description) {
    command->add_option(name, value, description)
        ->capture_default_str()
        ->check(positive())
        ->type_name("N");
  };
  addCount("--prompt-tokens", options->promptTokens, "Tokens of the prefill");
  addCount("--gen-tokens", options->genTokens, "Tokens decoded behind them");
  addCount("--batch", options->batch, "Tokens of one decode step");
  addThreadOptions(*command, options->threads);
  addCount("--repetitions", options->repetitions, "Timed runs, after one warm-up");
  command->add_flag("--kernels", options->kernels,
                    "Also measure each kernel alone, in the prefill and in a decode step");
  command->add_option("--output", options->output, "md, csv or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"md", "csv", "json"}).description(""))
      ->type_name("FORM");
  command->footer(footer);
  return {command, [options] { bench(*options); }};
}

} // namespace moeplan::tools
