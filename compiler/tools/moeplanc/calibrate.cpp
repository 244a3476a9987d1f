// `moeplanc calibrate`: statistics of a checkpoint's experts from a text.
#include "compiler/tools/moeplanc/commands.h"

#include "compiler/calibrate/calibrate.h"
#include "compiler/calibrate/report.h"
#include "runtime/support/command_line.h"
#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include "llvm/ADT/StringExtras.h"

#include <cstdio>
#include <memory>
#include <optional>

namespace moeplan::tools {
namespace {

struct Options {
  compiler::CalibrateOptions calibrate;
  bool report = false;
};

/// One progress bar after the other, as the work's label changes.
class Bars {
public:
  void update(const char *label, uint64_t done, uint64_t total, const char *unit) {
    if (label_ != label) {
      finish();
      bar_.emplace(label, total, unit);
      label_ = label;
    }
    bar_->update(done);
  }
  void finish() {
    if (bar_)
      bar_->finish();
    bar_.reset();
  }

private:
  std::string label_;
  std::optional<Progress> bar_;
};

std::string momentsText(uint64_t block) {
  return block == 1 ? "diagonals" : "blocks of " + std::to_string(block) + " columns";
}

int run(Options &options) {
  Bars bars;
  options.calibrate.progress = [&](const char *label, uint64_t done, uint64_t total,
                                   const char *unit) { bars.update(label, done, total, unit); };
  auto report = compiler::calibrate(options.calibrate);
  if (!report)
    return reportFailure("moeplanc", llvm::toString(report.takeError()), kExitFailed);
  bars.finish();
  const std::string &output = options.calibrate.output;
  std::fprintf(stderr, "%s: %s, %llu tokens in %u windows, %u held out, moments in %s and %s\n",
               output.c_str(), formatBytes(static_cast<double>(report->fileBytes)).c_str(),
               static_cast<unsigned long long>(report->tokens), report->windows,
               report->heldOutWindows, momentsText(report->inputBlock).c_str(),
               momentsText(report->hiddenBlock).c_str());
  if (!report->hardlyReached.empty())
    std::fprintf(stderr, "hardly reached, will be quantised without calibration: %s\n",
                 llvm::join(report->hardlyReached, ", ").c_str());
  if (!options.report)
    return kExitDone;
  auto statistics = compiler::Statistics::open(output, "");
  if (!statistics)
    return reportFailure("moeplanc", llvm::toString(statistics.takeError()), kExitFailed);
  std::fputs(compiler::printStatistics(**statistics).c_str(), stdout);
  return kExitDone;
}

} // namespace

Command addCalibrateCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand(
      "calibrate", "run a checkpoint over a text, for quantisers and for the planner");
  auto options = std::make_shared<Options>();
  compiler::CalibrateOptions &calibrate = options->calibrate;
  command
      ->add_option("CHECKPOINT", calibrate.checkpoint,
                   "Hugging Face directory: config.json, *.safetensors, tokenizer.model")
      ->required()
      ->type_name("DIR");
  command->add_option("--text", calibrate.text, "UTF-8 text like what the model will be used for")
      ->required()
      ->type_name("FILE");
  command->add_option("-o,--output", calibrate.output, "statistics to write, as x.moestats")
      ->required()
      ->type_name("FILE");
  command->add_option("--max-tokens", calibrate.maxTokens, "most tokens of the text (default: all)")
      ->check(CLI::Range(uint64_t(1), UINT64_MAX).description(""))
      ->type_name("N");
  command
      ->add_option("--context", calibrate.context,
                   "positions of a window, BOS included (default: the model's, at most 512)")
      ->check(CLI::Range(2u, UINT32_MAX).description(""))
      ->type_name("N");
  command
      ->add_option("--memory-limit", calibrate.memoryLimit,
                   "for sums of second moments, as 4GiB: decides how much of the Hessian is kept")
      ->transform(CLI::AsSizeValue(false).description(""))
      ->default_str("4GiB")
      ->type_name("SIZE");
  command->add_option("--formats", calibrate.formats, "formats to give sensitivities for")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->default_str("int8g64,int4g32,int3g32,int2g32")
      ->type_name("FORMAT,...");
  command->add_flag("--measure", calibrate.measure,
                    "measure every sensitivity, by swapping that one linear in; takes long");
  command->add_flag("--report", options->report,
                    "print routing and sensitivities, predicted against measured");
  command->add_option("--threads", calibrate.threads, "threads (default: physical cores)")
      ->check(CLI::Range(1u, 1024u).description(""))
      ->type_name("N");
  command->footer("Example:\n  moeplanc calibrate models/mixtral-8x7b --text wiki.train.txt "
                  "--max-tokens 200000 -o mixtral.moestats");
  return {command, [options] { return run(*options); }};
}

} // namespace moeplan::tools
