#include "compiler/driver/compile.h"

#include "compiler/codegen/kernel_library.h"
#include "compiler/driver/canary.h"
#include "compiler/driver/cuda.h"
#include "compiler/driver/planning.h"
#include "compiler/driver/policy_input.h"
#include "compiler/driver/tier_op.h"
#include "compiler/import/checkpoint_digest.h"
#include "compiler/import/import_model.h"
#include "compiler/pack/atomic_file.h"
#include "compiler/pack/pack.h"
#include "compiler/transforms/passes.h"
#include "compiler/tune/tune.h"
#include "formats.h"
#include "runtime/device/cpu_features.h"
#include "runtime/support/units.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"

#include <optional>
#include <set>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

std::string printModule(mlir::ModuleOp module) {
  std::string text;
  raw_string_ostream stream(text);
  module.print(stream);
  stream << "\n";
  return text;
}

class Compilation {
public:
  explicit Compilation(const CompileOptions &options) : options(options) {}

  Expected<CompileReport> run() {
    if (Error error = readInputs())
      return error;
    context.loadDialect<moe::MoeDialect, plan::PlanDialect, mlir::func::FuncDialect>();
    context.printOpOnDiagnostic(false);
    context.printStackTraceOnDiagnostic(false);

    module = importModel(context, *checkpoint);
    if (failed(mlir::verify(*module)))
      return createStringError("internal: the imported model does not verify");
    if (Error error = finishPhase(Phase::Moe, "moe"))
      return error;
    if (options.compileTo == Phase::Moe)
      return report;

    if (Error error = planTiers())
      return error;
    addTiers();
    if (Error error = runPasses([](mlir::PassManager &passes) {
          passes.addPass(createApplyPlacement());
          passes.addPass(createFuse());
        }))
      return error;
    if (Error error = finishPhase(Phase::Placed, "placed"))
      return error;
    if (options.compileTo == Phase::Placed)
      return report;

    if (Error error = tune())
      return error;
    if (Error error = runPasses([&](mlir::PassManager &passes) {
          ConvertMoeToPlanOptions conversion;
          conversion.tuningText = tuning;
          conversion.alsoFormats = options.alsoFormats;
          conversion.deviceTokens = cuda.programTokens();
          conversion.synthetic = checkpoint->syntheticSeed().has_value();
          if (!options.kvFormat.empty())
            conversion.kvFormat = options.kvFormat;
          passes.addPass(createConvertMoeToPlan(std::move(conversion)));
          passes.addPass(createCheckKernelFormats());
          passes.addPass(createScheduleTransfers());
          passes.addPass(createAssignArena());
        }))
      return error;
    if (!report.placements.tiers.empty())
      report.placements.storage = storageOf(*module);
    if (options.dryRun)
      return report;
    if (Error error = finishPhase(Phase::Plan, "plan"))
      return error;
    if (options.compileTo == Phase::Plan)
      return report;
    return packPlans();
  }

private:
  /// Checks the tuning that was given, or searches one for the formats of the placed model.
  Error tune() {
    if (!options.tune) {
      auto parsed = KernelTuning::parse(options.tuning);
      if (!parsed)
        return parsed.takeError();
      tuning = parsed->print();
      return Error::success();
    }
    TuneOptions tune;
    std::set<moeplan_format> formats;
    auto add = [&](StringRef name) {
      if (const FormatInfo *format = findFormat(std::string_view(name)))
        formats.insert(format->id);
    };
    module->walk([&](moe::ExpertsOp op) {
      for (auto expert : op.getExperts().getAsRange<moe::ExpertAttr>())
        for (mlir::StringAttr format :
             {expert.getPlacement().getW1(), expert.getPlacement().getW3(),
              expert.getPlacement().getW2()})
          add(format);
    });
    for (auto function : module->getOps<mlir::func::FuncOp>())
      if (auto format = function->getAttrOfType<mlir::StringAttr>(moe::kNonExpertFormatAttrName))
        add(format);
    tune.formats.assign(formats.begin(), formats.end());
    tune.hiddenSize = checkpoint->config().hiddenSize;
    tune.intermediateSize = checkpoint->config().intermediateSize;
    tune.threads = options.threads;
    tune.progress = progressOf("tune", "trials");
    if (targets.size() != 1)
      return createStringError("tuning is for one target CPU, " + Twine(targets.size()) +
                               " are given");
    auto found = tuneKernels(tune, targets.front());
    if (!found)
      return found.takeError();
    report.tuning = tuning = found->print();
    return Error::success();
  }

  Error readInputs() {
    auto input = readPolicyInput(options);
    if (!input)
      return input.takeError();
    policy = std::move(input->policy);
    policyDigest = std::move(input->digest);
    auto choice = QuantizerChoice::parse(options.quantizer);
    if (!choice)
      return choice.takeError();
    quantizers = std::move(*choice);
    if (const QuantizerInfo *quantizer = quantizers.needsStatistics();
        quantizer && options.statistics.empty())
      return createStringError("quantiser '" + std::string(quantizer->name) +
                               "' works from calibration statistics: give --stats (see 'moeplanc "
                               "calibrate')");
    std::vector<std::string> requests =
        options.targetCpus.empty() ? policy.cpuTargets : options.targetCpus;
    if (requests.empty())
      requests = {"host"};
    std::set<std::string> seen;
    for (const std::string &request : requests) {
      auto target = resolveCpuTarget(request);
      if (!target)
        return target.takeError();
      if (seen.insert(target->cpu).second)
        targets.push_back(std::move(*target));
    }
    if (Error error =
            cuda.choose(options.targetCudas.empty() ? policy.cudaTargets : options.targetCudas,
                        options.compileTo == Phase::Artifact && !options.dryRun))
      return error;
    // Before anything that takes long: a path that cannot be written is known now.
    if (options.compileTo == Phase::Artifact && !options.dryRun) {
      auto file = AtomicFile::create(options.output);
      if (!file)
        return file.takeError();
      output.emplace(std::move(*file));
    }
    auto opened = options.config.empty()
                      ? Checkpoint::open(options.checkpoint)
                      : Checkpoint::synthetic(options.config, options.syntheticSeed);
    if (!opened)
      return opened.takeError();
    checkpoint = std::move(*opened);
    if (options.resume && options.cacheDirectory.empty())
      return createStringError("there is nothing to resume with: no cache directory");
    auto openedCache = BuildCache::open(options.cacheDirectory, options.cacheBytes);
    if (openedCache)
      cache = std::move(*openedCache);
    else if (options.cacheIsOptional && !options.resume)
      consumeError(openedCache.takeError());
    else
      return openedCache.takeError();
    checkpointDigest.emplace(*checkpoint, *cache);
    if (Error error = readStatistics())
      return error;
    if (Error error = readCanaryText())
      return error;
    if (!options.dumpPhasesTo.empty())
      if (std::error_code error = sys::fs::create_directories(options.dumpPhasesTo))
        return createStringError(options.dumpPhasesTo + ": " + error.message());
    return Error::success();
  }

  Error readStatistics() {
    if (options.statistics.empty() || options.compileTo == Phase::Moe)
      return Error::success();
    // A digest reads every weight: only where weights are read anyway.
    std::string digest;
    if (options.compileTo == Phase::Artifact && !options.dryRun) {
      auto made = checkpointDigest->ofAll(progressOf("digest", "bytes"));
      if (!made)
        return made.takeError();
      digest = std::move(*made);
    }
    auto read = Statistics::open(options.statistics, digest);
    if (!read)
      return read.takeError();
    statistics = std::move(*read);
    return Error::success();
  }

  std::function<void(uint64_t, uint64_t)> progressOf(const char *what, const char *unit) const {
    if (!options.progress)
      return {};
    return [this, what, unit](uint64_t done, uint64_t total) {
      options.progress(what, done, total, unit);
    };
  }

  Error readCanaryText() {
    if (!policy.canary && !options.canaryText.empty())
      return createStringError("--canary-text is for a policy that has a [canary]");
    facts.canary = policy.canary;
    if (!policy.canary || options.compileTo != Phase::Artifact || options.dryRun)
      return Error::success();
    if (checkpoint->syntheticSeed()) {
      report.canaryLeftOut = true;
      return Error::success();
    }
    if (Error error = checkRunsHere())
      return error;
    auto canary = readCanary(*checkpoint, *policy.canary, options.canaryText);
    if (!canary)
      return canary.takeError();
    facts.canaryFacts = std::move(*canary);
    return Error::success();
  }

  /// A canary is computed by the machine that compiles.
  Error checkRunsHere() const {
    std::vector<std::string> names;
    for (const CpuTarget &target : targets) {
      if (missingCpuFeatures(target.features).empty())
        return Error::success();
      names.push_back(target.cpu);
    }
    return createStringError("canary: this machine can run none of the targets " +
                             join(names, ", "));
  }

  /// The model in 16 bits, for the targets of this compilation.
  Error compileReference(const std::string &path) const {
    CompileOptions reference;
    reference.checkpoint = options.checkpoint;
    reference.output = path;
    reference.cacheDirectory = options.cacheDirectory;
    reference.cacheIsOptional = options.cacheIsOptional;
    reference.cacheBytes = options.cacheBytes;
    for (const CpuTarget &target : targets)
      reference.targetCpus.push_back(target.cpu);
    return compile(reference).takeError();
  }

  /// Fills in what plans and reference make of the canary, once the plans are in a file.
  Error scoreCanaryOf(const std::string &path) {
    const std::string reference =
        options.output + ".tmp-" + std::to_string(sys::Process::getProcessId()) + ".reference";
    return scoreCanary(
        path, reference, [&](const std::string &file) { return compileReference(file); },
        options.threads, *facts.canaryFacts);
  }

  /// Makes a placement of every tier, where there is a policy; fills the report and the facts.
  Error planTiers() {
    for (const auto &[name, placement] : options.placements) {
      TierReport &tier = report.placements.tiers.emplace_back();
      tier.tier.name = name;
      tier.tier.planned = true;
      tier.plan.placement = placement;
    }
    if (!options.placements.empty()) {
      policy.tiers.clear();
      for (const TierReport &tier : report.placements.tiers)
        policy.tiers.push_back(tier.tier);
      return Error::success();
    }
    if (options.policy.empty() && options.profile.empty() && !options.dryRun)
      return Error::success();
    auto planning =
        Planning::create(*checkpoint, policy, options.profile, statistics.get(), options.kvFormat,
                         /*forCuda=*/!cuda.targets().empty());
    if (!planning)
      return planning.takeError();
    PlansReport &plans = report.placements;
    plans.context = facts.context = policy.context;
    plans.batch = facts.batch = policy.batch;
    plans.qualitySource = planning->quality().source();
    plans.numExperts = checkpoint->config().numLayers * checkpoint->config().numExperts;
    if (planning->profile()) {
      plans.profile = planning->profile()->name.empty() ? "unnamed" : planning->profile()->name;
      plans.hasDevice = facts.hasDevice = planning->profile()->device.has_value();
      profileDigest = planning->profileDigest();
    }
    facts.switching = policy.switching;
    for (const Tier &tier : policy.tiers) {
      auto plan = options.paperPlanner && tier.planned
                      ? planning->planLikePaper(tier, options.paper)
                      : planning->plan(tier);
      if (!plan)
        return plan.takeError();
      PlanFacts &plansFacts = facts.plans[tier.name];
      plansFacts.prefer = tier.prefer;
      plansFacts.limits = tier.limits;
      if (tier.planned)
        plansFacts.costs = plan->costs;
      plans.tiers.push_back({tier, std::move(*plan)});
    }
    return Error::success();
  }

  void addTiers() {
    for (auto [index, tier] : enumerate(policy.tiers))
      addTier(*module, tier,
              report.placements.tiers.empty() ? nullptr
                                              : &report.placements.tiers[index].plan.placement);
  }

  Error runPasses(function_ref<void(mlir::PassManager &)> add) {
    // What the passes have to say to the user becomes the error.
    std::string message;
    mlir::ScopedDiagnosticHandler handler(&context, [&](mlir::Diagnostic &diagnostic) {
      if (diagnostic.getSeverity() == mlir::DiagnosticSeverity::Error && message.empty())
        message = diagnostic.str();
      return mlir::success();
    });
    mlir::PassManager passes(&context);
    if (options.printIrAfterAll) {
      context.disableMultithreading();
      passes.enableIRPrinting([](mlir::Pass *, mlir::Operation *) { return false; },
                              [](mlir::Pass *, mlir::Operation *) { return true; },
                              /*printModuleScope=*/false, /*printAfterOnlyOnChange=*/false,
                              /*printAfterOnlyOnFailure=*/false, errs());
    }
    if (options.timing)
      passes.enableTiming();
    add(passes);
    if (succeeded(passes.run(*module)))
      return Error::success();
    return createStringError(message.empty() ? "a pass failed" : message);
  }

  Error finishPhase(Phase phase, StringRef name) {
    if (!options.dumpPhasesTo.empty()) {
      SmallString<128> path(options.dumpPhasesTo);
      sys::path::append(path, name + ".mlir");
      if (Error error = writeTextFile(path, printModule(*module)))
        return error;
    }
    if (options.compileTo != phase)
      return Error::success();
    std::string text = printModule(*module);
    if (options.output.empty()) {
      outs() << text;
      outs().flush();
      return Error::success();
    }
    report.fileBytes = text.size();
    return writeTextFile(options.output, text);
  }

  Expected<CompileReport> packPlans() {
    std::vector<KernelSpec> kernels = collectKernels(*module);
    std::vector<KernelLibrary> libraries;
    for (const CpuTarget &target : targets) {
      auto library = compileKernels(kernels, target, cache.get());
      if (!library)
        return library.takeError();
      // With check-kernel-formats this is the proof that every (expert, format, target) has code.
      for (auto [kernel, bytes] : zip_equal(kernels, library->codeBytes))
        if (bytes == 0 && kernel.machine == Machine::Cpu)
          return createStringError("no code for kernel '" + kernel.symbol + "' on " + target.cpu);
      report.targetCpus.push_back(target.cpu);
      libraries.push_back(std::move(*library));
    }
    auto cudaLibraries = cuda.compile(kernels, *cache);
    if (!cudaLibraries)
      return cudaLibraries.takeError();
    report.cuda = cudaReportOf(kernels, *cudaLibraries);
    Provenance provenance{MOEPLAN_VERSION,         LLVM_VERSION_STRING,
                          /*checkpointDigest=*/"", policyDigest,
                          commandLine(),           statistics ? statistics->digest() : "",
                          profileDigest,           cuda.nvrtcVersion()};
    WeightQuantizer quantizer(statistics.get(), quantizers, options.threads);
    CompleteFacts complete;
    if (facts.canaryFacts)
      complete = [&](const std::string &path) { return scoreCanaryOf(path); };
    noteSmallCache();
    const PackProgress progress = progressOf("pack", "bytes");
    auto packed = packArtifact(
        *module, libraries, *cudaLibraries, provenance, facts,
        {*checkpoint, *checkpointDigest, *cache, quantizer, *output, progress}, complete);
    if (!packed)
      return packed.takeError();
    if (facts.canaryFacts)
      report.canaryWarnings = canaryWarnings(*policy.canary, *facts.canaryFacts);
    report.hardlyReached.assign(quantizer.hardlyReached().begin(), quantizer.hardlyReached().end());
    report.fileBytes = packed->fileBytes;
    report.quantized = packed->weights.quantized;
    report.fromCache = packed->weights.fromCache;
    report.hasTokenizer = !checkpoint->tokenizer().empty();
    report.plans = policy.tiers.size();
    report.kernels = kernels.size();
    return report;
  }

  /// Whoever interrupts a compilation counts on finding again what was finished.
  void noteSmallCache() const {
    if (!options.notice || !cache->isOn() || checkpoint->syntheticSeed())
      return;
    uint64_t quantized = 0;
    for (plan::SegmentOp segment : mlir::ModuleOp(*module).getOps<plan::SegmentOp>())
      if (findFormat(std::string_view(segment.getFormat()))->isPacked())
        quantized += segment.getBytes();
    if (quantized > options.cacheBytes)
      options.notice("the cache keeps " + formatBytes(double(options.cacheBytes)) + " of " +
                     formatBytes(double(quantized)) +
                     " of quantised weights (--cache-size): the rest is made again after an "
                     "interruption");
  }

  /// What decides the bytes besides files, which have digests of their own.
  std::string commandLine() const {
    std::string line = "moeplanc compile --target-cpu=" + join(report.targetCpus, ",");
    auto add = [&](const char *name, const std::string &value) {
      if (!value.empty())
        line.append(" --").append(name).append("=").append(value);
    };
    add("target-cuda", join(cuda.targets(), ","));
    add("expert-format", options.expertFormat);
    add("non-expert-format", options.nonExpertFormat);
    add("quantizer", options.quantizer);
    add("kv-format", options.kvFormat);
    if (options.paperPlanner) {
      add("planner", "paper");
      add("seed", std::to_string(options.paper.seed));
      if (options.paper.num4Bit)
        add("4-bit-experts", std::to_string(*options.paper.num4Bit));
    }
    add("tuning", tuning);
    if (checkpoint->syntheticSeed())
      add("synthetic", std::to_string(*checkpoint->syntheticSeed()));
    return line;
  }

  const CompileOptions &options;
  mlir::MLIRContext context;
  Policy policy;
  PolicyFacts facts;
  std::string policyDigest, profileDigest;
  QuantizerChoice quantizers;
  std::vector<CpuTarget> targets;
  CudaCompilation cuda;
  std::optional<AtomicFile> output; ///< the artifact, until it is committed
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<BuildCache> cache = std::make_unique<BuildCache>();
  std::optional<CheckpointDigest> checkpointDigest;
  std::unique_ptr<Statistics> statistics;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  CompileReport report;
  std::string tuning; ///< of this artifact, as the pass takes it
};

} // namespace

Expected<CompileReport> moeplan::compiler::compile(const CompileOptions &options) {
  return Compilation(options).run();
}
