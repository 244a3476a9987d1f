// `moeplanc compile`: a checkpoint into an artifact.
#include "compiler/tools/moeplanc/commands.h"

#include "compiler/cache/build_cache.h"
#include "compiler/driver/compile.h"
#include "runtime/support/command_line.h"
#include "runtime/support/progress.h"
#include "runtime/support/quantities.h"
#include "runtime/support/units.h"

#include "llvm/ADT/StringExtras.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

namespace moeplan::tools {
namespace {

/// "models/tiny-mixtral/" -> "tiny-mixtral", "configs/mixtral-8x7b.json" -> "mixtral-8x7b"; empty
/// where the path gives no name.
std::string modelName(const compiler::CompileOptions &options) {
  namespace fs = std::filesystem;
  if (!options.config.empty())
    return fs::path(options.config).stem().string();
  fs::path name = fs::path(options.checkpoint).lexically_normal();
  if (!name.has_filename())
    name = name.parent_path();
  return name == "." || name == ".." ? "" : name.filename().string();
}

int runCompile(compiler::CompileOptions &options, bool json) {
  if (options.output.empty() && !options.dryRun && options.compileTo == compiler::Phase::Artifact) {
    const std::string name = modelName(options);
    if (name.empty())
      return reportFailure("moeplanc",
                           "cannot name the artifact after '" + options.checkpoint + "': use -o",
                           kExitWrongUsage);
    options.output = name + ".moeplan";
  }

  std::string now; // what `progress` is of
  std::optional<Progress> progress;
  options.progress = [&](const char *what, uint64_t done, uint64_t total, const char *unit) {
    if (now != what) {
      progress.emplace(what, total, unit);
      now = what;
    }
    progress->update(done);
    if (done == total)
      progress->finish();
  };
  options.notice = [](const std::string &line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  const auto begin = std::chrono::steady_clock::now();
  auto report = compiler::compile(options);
  if (!report) {
    return reportFailure("moeplanc", llvm::toString(report.takeError()), kExitFailed);
  }
  if (options.tune)
    std::fprintf(stderr, "tuned: %s\n",
                 report->tuning.empty() ? "the defaults are best here"
                                        : ("--tuning=" + report->tuning).c_str());
  if (!report->placements.tiers.empty() && (json || options.dryRun)) {
    const std::string text = json ? compiler::plansJson(report->placements, report->cuda)
                                  : compiler::printPlans(report->placements);
    if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0)
      return reportFailure("moeplanc", "cannot write to standard output", kExitFailed);
  }
  if (options.dryRun || options.compileTo != compiler::Phase::Artifact)
    return kExitDone;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  if (!json && report->placements.tiers.size() > 1)
    std::fprintf(stderr, "%s\n", compiler::printPlans(report->placements).c_str());
  if (!json && !report->cuda.kernels.empty())
    std::fprintf(stderr, "%s\n", compiler::printCuda(report->cuda).c_str());
  for (const std::string &warning : compiler::spillWarnings(report->cuda))
    std::fprintf(stderr, "%s\n", warning.c_str());
  llvm::append_range(report->targetCpus, report->cuda.targets);
  std::fprintf(stderr, "%s: %s, %zu plan%s, %zu kernels for %s, %.1f s\n", options.output.c_str(),
               formatBytes(report->fileBytes).c_str(), report->plans, report->plans == 1 ? "" : "s",
               report->kernels, llvm::join(report->targetCpus, ", ").c_str(), seconds.count());
  if (report->fromCache > 0 || options.resume)
    std::fprintf(stderr, "%zu weights quantised, %zu taken from %s\n", report->quantized,
                 report->fromCache, options.cacheDirectory.c_str());
  if (!options.config.empty())
    std::fprintf(stderr, "synthetic weights, seed %llu: for measuring speed, on token ids\n",
                 static_cast<unsigned long long>(options.syntheticSeed));
  else if (!report->hasTokenizer)
    std::fprintf(stderr, "no tokenizer.model: the artifact takes and gives token ids only\n");
  for (const std::string &warning : report->canaryWarnings)
    std::fprintf(stderr, "%s\n", warning.c_str());
  if (report->canaryLeftOut)
    std::fprintf(stderr, "synthetic weights: the canary has limits, but nothing to check with\n");
  if (!report->hardlyReached.empty())
    std::fprintf(stderr, "quantised without calibration, which hardly reached them: %s\n",
                 llvm::join(report->hardlyReached, ", ").c_str());
  return kExitDone;
}

} // namespace

Command addCompileCommand(CLI::App &app) {
  auto shared = std::make_shared<compiler::CompileOptions>();
  compiler::CompileOptions &options = *shared;
  CLI::App *compile = app.add_subcommand("compile", "compile a checkpoint into an artifact");
  compile->footer("Example:\n  moeplanc compile models/mixtral-8x7b --target-cpu=x86-64-v3,znver4 "
                  "-o mixtral.moeplan");
  CLI::Option *checkpoint =
      compile
          ->add_option("CHECKPOINT", options.checkpoint,
                       "Hugging Face directory: config.json, *.safetensors, tokenizer.model "
                       "(optional)")
          ->type_name("DIR");
  CLI::Option *config = compile
                            ->add_option("--config", options.config,
                                         "instead of a checkpoint: a config.json, for an artifact "
                                         "whose weights are generated when it is loaded")
                            ->type_name("FILE")
                            ->excludes(checkpoint);
  CLI::Option *synthetic =
      compile
          ->add_option("--synthetic", options.syntheticSeed, "with --config: seed of the weights")
          ->type_name("SEED")
          ->needs(config);
  config->needs(synthetic);
  compile->callback([checkpoint, config] {
    if (checkpoint->empty() && config->empty())
      throw CLI::RequiredError("CHECKPOINT or --config");
  });
  CLI::Option *policy = compile
                            ->add_option("--policy", options.policy,
                                         "TOML file with targets and tiers (default: one plan "
                                         "'default', every expert bf16 on the host)")
                            ->type_name("FILE");
  compile
      ->add_option("--profile", options.profile,
                   "TOML file that says what the machine can do, from 'moeplan profile' (default: "
                   "the policy's)")
      ->type_name("FILE");
  compile->add_flag("--dry-run", options.dryRun,
                    "plan, and print what every plan takes, gives and shares, exact to the byte; "
                    "write nothing");
  CLI::Option *planner =
      compile
          ->add_option_function<std::string>(
              "--planner",
              [&options](const std::string &name) { options.paperPlanner = name == "paper"; },
              "'moeplan' (the default), or 'paper': that of arXiv 2407.14417, to compare with")
          ->check(CLI::IsMember({"moeplan", "paper"}).description(""))
          ->needs(policy)
          ->type_name("NAME");
  compile
      ->add_option("--4-bit-experts", options.paper.num4Bit,
                   "with --planner=paper: how many experts have 4 bits, the others having 16 "
                   "(default: as few as fit)")
      ->needs(planner)
      ->type_name("N");
  compile
      ->add_option("--seed", options.paper.seed,
                   "with --planner=paper: decides which experts have 4 bits")
      ->needs(planner)
      ->type_name("N");
  auto json = std::make_shared<bool>(false);
  compile->add_flag("--json", *json, "print what the plans take and share as JSON")->needs(policy);
  compile
      ->add_option("--expert-format", options.expertFormat,
                   "format of all experts: bf16, f32, or int8, int4, int3, int2 with a group size "
                   "of 32, 64 or 128, as int4g64")
      ->type_name("FORMAT")
      ->excludes(policy);
  compile
      ->add_option("--expert-format-file", options.expertFormatFile,
                   "lines 'PATTERN FORMAT', as 'layers.3.experts.5.w2 int8g64'; the first match "
                   "wins, what no line matches has --expert-format")
      ->type_name("FILE")
      ->excludes(policy);
  compile
      ->add_option("--non-expert-format", options.nonExpertFormat,
                   "format of the matrices outside the experts (default: bf16)")
      ->type_name("FORMAT")
      ->excludes(policy);
  compile
      ->add_option("--kv-format", options.kvFormat,
                   "format of the KV cache: bf16 (the default), int8 or f32")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}).description(""))
      ->type_name("FORMAT");
  CLI::Option *tuning = compile
                            ->add_option("--tuning", options.tuning,
                                         "compile-time parameters of the kernels, as --tune "
                                         "prints them")
                            ->type_name("TEXT");
  compile
      ->add_flag("--tune", options.tune,
                 "search these parameters on this machine, which must be the target")
      ->excludes(tuning);
  compile
      ->add_option("--canary-text", options.canaryText,
                   "held-out text for the policy's [canary], in place of its canary.text")
      ->type_name("FILE")
      ->needs(policy)
      ->excludes(config);
  compile
      ->add_option("--stats", options.statistics,
                   "calibration statistics of this checkpoint, from 'moeplanc calibrate'")
      ->type_name("FILE")
      ->excludes(config);
  compile
      ->add_option("--quantizer", options.quantizer,
                   "how codes are chosen: rtn, imatrix, gptq, descent or hqq; or by format, as "
                   "int2=descent,int4g64=gptq (default: the best for the bits and what is known)")
      ->type_name("NAME")
      ->excludes(config);
  compile
      ->add_option("--threads", options.threads,
                   "threads of the quantisers, of --tune and of the canary (default: all cores)")
      ->check(CLI::Range(1u, 1024u).description(""))
      ->type_name("N")
      ->excludes(config);
  compile
      ->add_option("-o,--output", options.output,
                   "file to write (default: the checkpoint's or the configuration's name with "
                   ".moeplan; IR goes to standard output)")
      ->type_name("FILE");
  compile
      ->add_option("--target-cpu", options.targetCpus,
                   "CPUs to compile kernels for, separated by commas: 'host', 'x86-64-v3', "
                   "'znver4', ... (default: the policy's, or 'host')")
      ->delimiter(',')
      ->allow_extra_args(false) // what follows is the checkpoint
      ->type_name("CPU,...");
  compile
      ->add_option("--target-cuda", options.targetCudas,
                   "CUDA architectures to compile kernels for besides, separated by commas: "
                   "'sm_80', 'sm_90a', ... (default: the policy's, or none)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("SM,...");
  options.cacheDirectory = compiler::BuildCache::defaultDirectory();
  options.cacheIsOptional = true;
  CLI::Option *cache =
      compile
          ->add_option_function<std::string>(
              "--cache-dir",
              [&options](const std::string &directory) {
                options.cacheDirectory = directory;
                options.cacheIsOptional = false;
              },
              "keep quantised weights and kernels in this directory, and take them from "
              "there (default: $XDG_CACHE_HOME/moeplan, or ~/.cache/moeplan)")
          ->type_name("DIR");
  CLI::Option *noCache = compile
                             ->add_flag_callback(
                                 "--no-cache", [&options] { options.cacheDirectory.clear(); },
                                 "keep nothing, and make all anew")
                             ->excludes(cache);
  compile
      ->add_option_function<std::string>(
          "--cache-size",
          [&options](const std::string &text) { options.cacheBytes = *parseBytes(text); },
          "what the cache may take, as 100GiB: beyond it, what was not used for longest goes "
          "(default: 64GiB)")
      ->check(CLI::Validator(
          [](const std::string &text) {
            return parseBytes(text) ? std::string() : "'" + text + "' is no size, as 100GiB";
          },
          ""))
      ->excludes(noCache)
      ->type_name("SIZE");
  compile
      ->add_flag("--resume", options.resume,
                 "continue a compilation that was interrupted, and say how much of it was there: "
                 "the cache must be on")
      ->excludes(noCache);
  compile
      ->add_flag_callback(
          "--list-cuda-targets",
          [] {
            auto listed = compiler::listCudaTargets();
            if (!listed)
              std::exit(reportFailure("moeplanc", llvm::toString(listed.takeError()), kExitFailed));
            std::fputs(listed->c_str(), stdout);
            throw CLI::Success();
          },
          "print what --target-cuda takes, and exit")
      ->trigger_on_parse();
  static const std::map<std::string, compiler::Phase> phases{
      {"moe", compiler::Phase::Moe},
      {"placed", compiler::Phase::Placed},
      {"plan", compiler::Phase::Plan},
      {"artifact", compiler::Phase::Artifact}};
  auto compileTo = std::make_shared<std::string>("artifact");
  compile->add_option("--compile-to", *compileTo, "stop at a border: moe, placed, plan or artifact")
      ->capture_default_str()
      ->check(CLI::IsMember(phases).description(""))
      ->type_name("PHASE");
  compile
      ->add_option("--dump-compilation-phases-to", options.dumpPhasesTo,
                   "write the IR of each border into this directory")
      ->type_name("DIR");
  compile->add_flag("--mlir-print-ir-after-all", options.printIrAfterAll,
                    "print the IR after each pass to standard error");
  compile->add_flag("--mlir-timing", options.timing, "print the time of each pass");
  return {compile, [shared, compileTo, json] {
            shared->compileTo = phases.at(*compileTo);
            return runCompile(*shared, *json);
          }};
}

} // namespace moeplan::tools
