// `moeplan bench`: tokens per second, beside what the machine's memory and arithmetic allow.
#include "runtime/tools/bench_report.h"
#include "runtime/tools/bench_switches.h"

namespace moeplan::tools {
namespace {

constexpr const char *footer = R"(Example:
  moeplan bench tiny.moeplan --prompt-tokens 128 --gen-tokens 64 --repetitions 5 --output=md

Shares are what counts, since a machine's rates vary from minute to minute:
  decode   bytes of weights (each distinct expert of a step once) per second, of the read bandwidth
  prefill  seconds that the operations done take at the peak of their arithmetic, of the time taken
Bandwidth and peaks are measured right before and right after every repetition, and the larger
counts. With --batch N a decode step takes N tokens of one sequence and computes the logits of all,
which costs the weights of a batch of N sequences. Keys of the JSON: tests/bench/README.md.

With --switches N plans are exchanged N times while tokens are decoded, and what of it is felt is
measured: moeplan bench tiny.moeplan --switches 100 --threads 1 --device emu:copy=2GB/s)";

void benchSwitches(const BenchOptions &options, const SwitchBenchOptions &switches) {
  const SwitchMeasurement measurement = measureSwitches(options, switches);
  if (options.output == "json")
    writeJson(switchesJson(options, measurement));
  else
    writeOutput(switchesMarkdown(options, measurement));
}

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
  auto switches = std::make_shared<SwitchBenchOptions>();
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
  addLoadingOptions(*command, options->loading);
  addCount("--repetitions", options->repetitions, "Timed runs, after one warm-up");
  command->add_flag("--kernels", options->kernels,
                    "Also measure each kernel alone, in the prefill and in a decode step");
  command->add_option("--output", options->output, "md, csv or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"md", "csv", "json"}).description(""))
      ->type_name("FORM");
  auto *count = command
                    ->add_option("--switches", switches->switches,
                                 "Measure so many changes of the plan instead, as md or json")
                    ->check(positive())
                    ->type_name("N");
  command->add_option("--plans", switches->plans, "Plans to go through in turn (default: all)")
      ->delimiter(',')
      ->needs(count)
      ->type_name("NAME,...");
  addDeviceOption(*command, options->device);
  addBandwidthShareOption(*command, switches->control.bandwidthShare);
  command->footer(footer);
  return {command, [options, switches] {
            switches->control.device = options->device;
            if (switches->switches > 0)
              benchSwitches(*options, *switches);
            else
              bench(*options);
          }};
}

} // namespace moeplan::tools
