// `moeplanc synth`: a checkpoint of random weights.
#include "compiler/tools/moeplanc/commands.h"

#include "compiler/import/synthetic_checkpoint.h"
#include "runtime/support/command_line.h"
#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>

namespace moeplan::tools {
namespace {

int run(compiler::SyntheticCheckpointOptions &options) {
  std::optional<Progress> progress;
  options.progress = [&](uint64_t done, uint64_t total) {
    if (!progress)
      progress.emplace("synth", total);
    progress->update(done);
  };
  const auto begin = std::chrono::steady_clock::now();
  auto report = compiler::writeSyntheticCheckpoint(options);
  if (!report)
    return reportFailure("moeplanc", llvm::toString(report.takeError()), kExitFailed);
  if (progress)
    progress->finish();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::fprintf(stderr, "%s: %s of random weights in %zu file%s, %.1f s\n", options.output.c_str(),
               formatBytes(static_cast<double>(report->weightBytes)).c_str(), report->files,
               report->files == 1 ? "" : "s", seconds.count());
  return kExitDone;
}

} // namespace

Command addSynthCommand(CLI::App &app) {
  auto options = std::make_shared<compiler::SyntheticCheckpointOptions>();
  CLI::App *command =
      app.add_subcommand("synth", "write a checkpoint of random weights, to measure speed with");
  command->add_option("--config", options->config, "the config.json of the model")
      ->required()
      ->type_name("FILE");
  command->add_option("--seed", options->seed, "the same seed gives the same bytes")
      ->capture_default_str()
      ->type_name("S");
  command->add_option("-o,--output", options->output, "directory to write, new or empty")
      ->required()
      ->type_name("DIR");
  command->footer("Without a checkpoint at all: moeplanc compile --config FILE --synthetic SEED.\n"
                  "Example:\n  moeplanc synth --config examples/configs/medium.json --seed 1 "
                  "-o medium");
  return {command, [options] { return run(*options); }};
}

} // namespace moeplan::tools
