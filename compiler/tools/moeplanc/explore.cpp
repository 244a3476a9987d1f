// `moeplanc explore`: the frontier of quality, speed and memory.
#include "compiler/tools/moeplanc/commands.h"

#include "compiler/explore/explore.h"
#include "compiler/support/toml_reader.h"
#include "runtime/support/command_line.h"
#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include <cstdio>
#include <memory>
#include <optional>

namespace moeplan::tools {
namespace {

int runExplore(compiler::ExploreOptions &options, const std::vector<std::string> &budgets) {
  for (const std::string &text : budgets) {
    const std::optional<uint64_t> bytes = compiler::parseBytes(text);
    if (!bytes || *bytes == 0)
      return reportFailure("moeplanc", "--budgets: '" + text + "' is no size, as 24GiB or 36.13GB",
                           kExitWrongUsage);
    options.budgets.push_back(*bytes);
  }
  std::optional<Progress> progress;
  std::string label;
  options.progress = [&](const char *now, uint64_t done, uint64_t total, const char *unit) {
    if (label != now) {
      label = now;
      progress.emplace(now, total, unit);
    }
    progress->update(done);
    if (done == total)
      progress->finish();
  };
  auto report = compiler::explore(options);
  if (!report)
    return reportFailure("moeplanc", llvm::toString(report.takeError()), kExitFailed);
  for (const std::string &line : report->infeasible)
    std::fprintf(stderr, "no point: %s\n", line.c_str());
  unsigned onFrontier = 0;
  for (const compiler::FrontierPoint &point : report->frontier.points)
    onFrontier += point.onFrontier;
  std::fprintf(stderr, "%s: %zu points, %u of them on the frontier; see frontier.html\n",
               options.output.c_str(), report->frontier.points.size(), onFrontier);
  return kExitDone;
}

} // namespace

Command addExploreCommand(CLI::App &app) {
  auto shared = std::make_shared<compiler::ExploreOptions>();
  compiler::ExploreOptions &options = *shared;
  CLI::App *explore =
      app.add_subcommand("explore", "draw the frontier of quality, speed and memory");
  explore->footer("Example:\n  moeplanc explore --config examples/configs/mixtral-8x7b.json "
                  "--profile examples/profiles/a100-80gb-paper.toml -o frontier/");
  CLI::Option *checkpoint =
      explore->add_option("CHECKPOINT", options.checkpoint, "Hugging Face directory")
          ->type_name("DIR");
  CLI::Option *config = explore
                            ->add_option("--config", options.config,
                                         "instead of a checkpoint: a config.json")
                            ->type_name("FILE")
                            ->excludes(checkpoint);
  explore->callback([checkpoint, config] {
    if (checkpoint->empty() && config->empty())
      throw CLI::RequiredError("CHECKPOINT or --config");
  });
  explore
      ->add_option("--policy", options.policy,
                   "TOML file: its tiers are marked, its formats, context and batch hold")
      ->type_name("FILE");
  explore
      ->add_option("--profile", options.profile,
                   "TOML file that says what the machine can do (default: the policy's)")
      ->type_name("FILE");
  explore
      ->add_option("--stats", options.statistics,
                   "calibration statistics, from 'moeplanc calibrate' (default: published figures)")
      ->type_name("FILE");
  explore->add_option("--kv-format", options.kvFormat, "format of the KV cache (default: bf16)")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}).description(""))
      ->type_name("FORMAT");
  auto budgets = std::make_shared<std::vector<std::string>>();
  explore
      ->add_option("--budgets", *budgets,
                   "sizes of memory to plan for, separated by commas: of the device, or of the host "
                   "where there is none (default: evenly spaced)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("SIZE,...");
  explore->add_option("--points", options.numBudgets, "evenly spaced budgets")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1000u).description(""))
      ->type_name("N");
  explore->add_option("--seed", options.seed, "of the paper's planner, which chooses at random")
      ->capture_default_str()
      ->type_name("N");
  CLI::Option *measure =
      explore->add_flag("--measure", options.measure,
                        "run every point on this machine's CPU: perplexity and speed");
  CLI::Option *text = explore
                          ->add_option("--text", options.text, "with --measure: UTF-8 text to score")
                          ->type_name("FILE")
                          ->needs(measure);
  measure->needs(text)->excludes(config);
  explore
      ->add_option("--context", options.windowContext,
                   "with --measure: positions of a window, BOS included (default: the model's, at "
                   "most 512)")
      ->needs(measure)
      ->type_name("N");
  explore->add_option("--max-windows", options.maxWindows, "with --measure: most windows to score")
      ->capture_default_str()
      ->needs(measure)
      ->type_name("N");
  explore->add_option("--threads", options.threads, "with --measure (default: physical cores)")
      ->needs(measure)
      ->type_name("N");
  explore->add_option("-o,--output", options.output, "directory to write into")
      ->required()
      ->type_name("DIR");
  return {explore, [shared, budgets] { return runExplore(*shared, *budgets); }};
}

} // namespace moeplan::tools
