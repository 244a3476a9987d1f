#include "compiler/driver/planning.h"

#include "compiler/driver/cuda.h"
#include "compiler/import/import_model.h"
#include "compiler/support/digest.h"
#include "compiler/transforms/passes.h"
#include "runtime/executor/device_program.h"
#include "runtime/support/units.h"

#include "mlir/IR/Builders.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MemoryBuffer.h"

#include <set>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

Expected<uint64_t> moeplan::compiler::activationBytes(const Checkpoint &checkpoint,
                                                      ArrayRef<std::string> expertFormats,
                                                      StringRef nonExpertFormat, StringRef kvFormat,
                                                      bool forCuda) {
  mlir::MLIRContext context;
  context.loadDialect<moe::MoeDialect, plan::PlanDialect, mlir::func::FuncDialect>();
  mlir::OwningOpRef<mlir::ModuleOp> module = importModel(context, checkpoint);
  mlir::OpBuilder builder(module->getBodyRegion());
  builder.setInsertionPointToEnd(module->getBody());
  auto rule = moe::RuleAttr::get(&context, builder.getStringAttr("*"),
                                 builder.getStringAttr(expertFormats.front()),
                                 builder.getStringAttr("host"));
  builder.create<moe::TierOp>(builder.getUnknownLoc(), builder.getStringAttr("trial"),
                              builder.getArrayAttr({rule}), mlir::ArrayAttr(),
                              builder.getStringAttr(nonExpertFormat), moe::MissAttr());
  mlir::PassManager passes(&context);
  passes.addPass(createApplyPlacement());
  passes.addPass(createFuse());
  ConvertMoeToPlanOptions conversion;
  conversion.alsoFormats = expertFormats;
  if (!kvFormat.empty())
    conversion.kvFormat = kvFormat.str();
  if (forCuda)
    conversion.deviceTokens = cudaProgramTokens();
  passes.addPass(createConvertMoeToPlan(std::move(conversion)));
  passes.addPass(createScheduleTransfers());
  passes.addPass(createAssignArena());
  if (failed(passes.run(*module)))
    return createStringError("internal: the trial placement does not compile");
  const plan::Memory memory = forCuda ? plan::Memory::Device : plan::Memory::Host;
  uint64_t bytes = 0;
  module->walk([&](plan::ProgramOp program) {
    if (program.getMemory() == memory)
      bytes = std::max(bytes, uint64_t(program.getArenaBytes().value_or(0)));
  });
  const MixtralConfig &config = checkpoint.config();
  if (forCuda) // what a session takes besides: for its input and output, and the expert table
    bytes += DeviceStep::bytesFor(uint32_t(cudaProgramTokens().back()), config.vocabSize) +
             uint64_t(config.numLayers) * config.numExperts * sizeof(moeplan_expert);
  return bytes;
}

Expected<Planning> Planning::create(const Checkpoint &checkpoint, const Policy &policy,
                                    StringRef profilePath, const Statistics *statistics,
                                    StringRef kvFormat, bool forCuda) {
  if (statistics) { // whatever was checked of it, indices must hold
    const fb::Statistics &m = statistics->metadata();
    const MixtralConfig &config = checkpoint.config();
    if (m.num_layers() != config.numLayers || m.num_experts() != config.numExperts ||
        m.hidden_size() != config.hiddenSize || m.intermediate_size() != config.intermediateSize)
      return createStringError("the calibration statistics are of a model of another shape");
  }
  Planning planning;
  planning.checkpoint_ = &checkpoint;
  planning.context_ = policy.context;
  planning.batch_ = policy.batch;
  planning.forCuda_ = forCuda;
  planning.kvFormat_ = kvFormat.empty() ? "bf16" : kvFormat.str();
  const std::string path = profilePath.empty() ? policy.profile : profilePath.str();
  if (!path.empty()) {
    auto text = MemoryBuffer::getFile(path);
    if (!text)
      return createStringError(path + ": " + text.getError().message());
    auto profile = parseProfile((*text)->getBuffer(), path);
    if (!profile)
      return profile.takeError();
    planning.profile_ = std::move(*profile);
    planning.profileDigest_ = digestOf((*text)->getBuffer());
  }
  planning.quality_ = statistics ? QualityModel::fromStatistics(*statistics)
                                 : QualityModel::published(checkpoint.config());
  if (statistics && planning.quality_->formats().size() < 2 &&
      any_of(policy.tiers, [](const Tier &tier) { return tier.planned; }))
    return createStringError("the calibration statistics hold no sensitivities to plan with");
  std::set<std::string> formats{"bf16"};
  for (const FormatInfo *format : planning.quality_->formats())
    formats.insert(std::string(format->name));
  for (const Tier &tier : policy.tiers)
    for (const PinRule &pin : tier.pins)
      if (!pin.format.empty())
        formats.insert(pin.format);
  planning.formats_.assign(formats.begin(), formats.end());
  return planning;
}

bool Planning::isForCuda(StringRef nonExpertFormat) const {
  return nonExpertFormat != "f32" &&
         findKvFormat(std::string_view(kvFormat_))->id == MOEPLAN_KV_BF16;
}

Expected<const CostModel *> Planning::costModel(const Tier &tier) {
  const std::string nonExpert = tier.nonExpertFormat.empty() ? "bf16" : tier.nonExpertFormat;
  std::unique_ptr<CostModel> &model = models_[nonExpert];
  if (!model) {
    auto activations =
        activationBytes(*checkpoint_, formats_, nonExpert, kvFormat_,
                        forCuda_ && profile_ && profile_->device && isForCuda(nonExpert));
    if (!activations)
      return activations.takeError();
    WorkloadInfo workload;
    workload.context = context_;
    workload.batch = batch_;
    workload.kvFormat = findKvFormat(std::string_view(kvFormat_))->id;
    workload.nonExpertFormat = findFormat(std::string_view(nonExpert));
    workload.activationBytes = *activations;
    model = std::make_unique<CostModel>(checkpoint_->config(), *quality_, profile_, workload);
  }
  return model.get();
}

Expected<PlannedTier> Planning::plan(const Tier &tier) {
  auto model = costModel(tier);
  if (!model)
    return model.takeError();
  if (tier.cacheSlots > (*model)->config().numExperts)
    return createStringError("tier '" + tier.name + "' asks for " + Twine(tier.cacheSlots) +
                             " cache slots, a layer has " + Twine((*model)->config().numExperts) +
                             " experts");
  if (!tier.misses.empty() && !(*model)->hasDevice())
    return createStringError("tier '" + tier.name +
                             "' says what to do about misses, and there is no profile of a machine "
                             "with a device");
  if (tier.planned)
    return planTier(**model, tier);
  if (!(*model)->hasDevice() &&
      any_of(tier.pins, [](const PinRule &pin) { return pin.residency == "device"; }))
    return createStringError(
        "tier '" + tier.name +
        "' pins experts to device memory, and there is no profile of a machine "
        "with a device");
  auto placement = applyPins(**model, tier);
  if (!placement)
    return placement.takeError();
  PlannedTier plan;
  plan.placement = std::move(*placement);
  plan.costs = (*model)->evaluate(plan.placement);
  return plan;
}

Expected<PlannedTier> Planning::planLikePaper(const Tier &tier, PaperOptions options) {
  auto model = costModel(tier);
  if (!model)
    return model.takeError();
  const bool hasDevice = (*model)->hasDevice();
  const std::optional<uint64_t> memory =
      hasDevice ? tier.limits.deviceMemory : tier.limits.hostMemory;
  const StringRef kind = hasDevice ? "device" : "host";
  if (!memory)
    return createStringError("tier '" + tier.name + "' states no " + kind +
                             " memory, which the paper's planner plans for");
  options.deviceMemory = *memory;
  PlannedTier plan = planAsPaper(**model, options);
  const uint64_t taken = hasDevice ? plan.costs.device.total() : plan.costs.host.total();
  if (taken > *memory)
    return createStringError("tier '" + tier.name + "': the paper's plan takes " +
                             formatBytes(double(taken)) + " of " + kind + " memory, " +
                             formatBytes(double(*memory)) + " given");
  return plan;
}
