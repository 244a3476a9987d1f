#include "compiler/pack/metadata.h"

#include "artifact_header.h"
#include "dialects/plan/PlanDialect.h"
#include "formats.h"
#include "kv_formats.h"
#include "moeplan_generated.h"

#include "llvm/ADT/StringMap.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;
using mlir::SymbolTable;

// The dialect's enums are the schema's.
static_assert(int(plan::Memory::Device) == int(fb::Residency::device));
static_assert(int(plan::Access::ReadWrite) == int(fb::Access::read_write));
static_assert(int(plan::ResourceKind::Keys) == int(fb::BindingKind::keys));
static_assert(int(plan::ResourceKind::Logits) == int(fb::BindingKind::logits));
static_assert(int(plan::ResourceKind::Candidates) == int(fb::BindingKind::candidates));
static_assert(int(plan::ResourceKind::ExpertSlots) == int(fb::BindingKind::expert_slots));
static_assert(int(plan::MissStrategy::Cached) == int(fb::MissStrategy::cached));
static_assert(int(plan::Machine::Cuda) == int(fb::Machine::cuda));
static_assert(int(Machine::Cuda) == int(fb::Machine::cuda));
static_assert(int(MissStrategy::Cached) == int(fb::MissStrategy::cached));

namespace {

using flatbuffers::Offset;
using flatbuffers::String;

template <typename T> flatbuffers::Optional<T> optional(const std::optional<T> &value) {
  return value ? flatbuffers::Optional<T>(*value) : flatbuffers::nullopt;
}

fb::Preference preferenceOf(std::optional<Preference> prefer) {
  if (!prefer)
    return fb::Preference::none;
  return *prefer == Preference::Quality ? fb::Preference::quality : fb::Preference::throughput;
}

fb::Format formatOf(StringRef name) { return fb::Format(findFormat(std::string_view(name))->id); }

/// Lets a table have all its numbers, whatever they are, so that its size does not depend on them.
class ForcedDefaults {
public:
  explicit ForcedDefaults(flatbuffers::FlatBufferBuilder &builder) : builder_(builder) {
    builder_.ForceDefaults(true);
  }
  ~ForcedDefaults() { builder_.ForceDefaults(false); }
  ForcedDefaults(const ForcedDefaults &) = delete;

private:
  flatbuffers::FlatBufferBuilder &builder_;
};

class MetadataBuilder {
public:
  explicit MetadataBuilder(const MetadataInput &input) : in(input), module(input.module) {}

  std::vector<uint8_t> run() {
    auto segments = buildSegments();
    auto kernels = buildKernels();
    auto libraries = buildLibraries();
    auto plans = buildPlans();
    auto model = buildModel();
    const Provenance &p = in.provenance;
    auto provenance = fb::CreateProvenance(
        builder, string(p.compilerVersion), string(p.llvmVersion), string(p.checkpointDigest),
        string(p.policyDigest), string(p.commandLine), optionalString(p.statisticsDigest),
        optionalString(p.profileDigest), optionalString(p.nvrtcVersion));
    const auto *tokenizer = find_if(in.packed, [](const PackedSegment &segment) {
      return segment.kind == PackedSegment::Kind::Tokenizer;
    });
    const uint32_t tokenizerSegment =
        tokenizer == in.packed.end() ? kNoTokenizer : tokenizer - in.packed.begin();
    auto canary = buildCanary();
    auto switching = buildSwitching();
    builder.Finish(fb::CreateArtifact(builder, model, segments, kernels, libraries, plans,
                                      tokenizerSegment, provenance, optional(in.syntheticSeed),
                                      canary, switching),
                   fb::ArtifactIdentifier());
    return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
  }

private:
  template <typename T> using Tables = Offset<flatbuffers::Vector<Offset<T>>>;

  Offset<String> string(StringRef text) { return builder.CreateString(text.data(), text.size()); }

  Offset<String> optionalString(StringRef text) {
    return text.empty() ? Offset<String>() : string(text);
  }

  fb::Extent extent(size_t index) const {
    const SegmentExtent &e = in.extents[index];
    return fb::Extent(e.offset, e.storedBytes, e.bytes, e.checksum);
  }

  Tables<fb::Segment> buildSegments() {
    std::vector<Offset<fb::Segment>> tables;
    for (const PackedSegment &segment : in.packed) {
      fb::Extent where = extent(tables.size());
      tables.push_back(fb::CreateSegment(builder, string(segment.name),
                                         segment.kind == PackedSegment::Kind::Code
                                             ? fb::SegmentKind::code
                                             : fb::SegmentKind::tokenizer,
                                         fb::Compression::zstd, &where));
    }
    for (auto segment : module.getOps<plan::SegmentOp>()) {
      segmentIndex[segment.getSymName()] = tables.size();
      std::vector<uint64_t> shape(segment.getShape().begin(), segment.getShape().end());
      fb::Extent where = extent(tables.size());
      tables.push_back(fb::CreateSegment(builder, string(segment.getSymName()),
                                         fb::SegmentKind::weight, fb::Compression::none, &where,
                                         formatOf(segment.getFormat()), builder.CreateVector(shape),
                                         /*synthetic=*/in.syntheticSeed.has_value()));
    }
    return builder.CreateVector(tables);
  }

  Tables<fb::Kernel> buildKernels() {
    std::vector<Offset<fb::Kernel>> tables;
    for (const KernelSpec &kernel : in.kernels) {
      kernelIndex[kernel.symbol] = tables.size();
      std::vector<Offset<fb::Constant>> constants;
      for (const auto &[name, value] : kernel.constants) {
        const bool isReal = std::holds_alternative<double>(value);
        constants.push_back(fb::CreateConstant(builder, string(name), isReal,
                                               isReal ? 0 : std::get<int64_t>(value),
                                               isReal ? std::get<double>(value) : 0));
      }
      tables.push_back(fb::CreateKernel(
          builder, string(kernel.symbol), string(kernel.implementation),
          builder.CreateVector(constants), kernel.bindings, fb::Machine(kernel.machine)));
    }
    return builder.CreateVector(tables);
  }

  Tables<fb::KernelLibrary> buildLibraries() {
    std::vector<Offset<fb::KernelLibrary>> tables;
    for (const KernelLibrary &library : in.libraries) {
      std::vector<Offset<String>> features;
      for (const std::string &feature : library.target.features)
        features.push_back(string(feature));
      // The code segments come first, in the order of the libraries.
      tables.push_back(fb::CreateKernelLibrary(
          builder, string(library.target.cpu), string(library.target.triple),
          builder.CreateVector(features), tables.size(), builder.CreateVector(library.codeBytes)));
    }
    for (const CudaLibrary &library : in.cudaLibraries)
      tables.push_back(fb::CreateKernelLibrary(
          builder, string(library.target), string("nvptx64-nvidia-cuda"),
          builder.CreateVector(std::vector<Offset<String>>()), tables.size(),
          builder.CreateVector(library.codeBytes), fb::Machine::cuda));
    return builder.CreateVector(tables);
  }

  Tables<fb::Plan> buildPlans() {
    std::vector<Offset<fb::Plan>> tables;
    for (auto op : module.getOps<plan::PlanOp>()) {
      std::vector<fb::Expert> experts;
      std::vector<Offset<fb::Program>> programs, devicePrograms;
      for (mlir::Operation &child : op.getBody().front()) {
        if (auto table = dyn_cast<plan::ExpertTableOp>(child))
          for (auto expert : table.getExperts().getAsRange<plan::ExpertAttr>())
            experts.push_back(fb::Expert(segment(expert.getW1()), segment(expert.getW3()),
                                         segment(expert.getW2()),
                                         fb::Residency(expert.getResidency())));
        else {
          auto program = cast<plan::ProgramOp>(child);
          (program.getMemory() == plan::Memory::Device ? devicePrograms : programs)
              .push_back(buildProgram(program));
        }
      }
      tables.push_back(buildPlan(
          op, builder.CreateVectorOfStructs(experts), builder.CreateVector(programs),
          devicePrograms.empty() ? Tables<fb::Program>() : builder.CreateVector(devicePrograms)));
    }
    return builder.CreateVector(tables);
  }

  Offset<fb::Plan> buildPlan(plan::PlanOp op,
                             Offset<flatbuffers::Vector<const fb::Expert *>> experts,
                             Tables<fb::Program> programs, Tables<fb::Program> devicePrograms) {
    const auto found = in.facts.plans.find(op.getSymName().str());
    static const PlanFacts kNone;
    const PlanFacts &facts = found == in.facts.plans.end() ? kNone : found->second;
    const TierLimits &limits = facts.limits;
    plan::MissAttr miss = op.getMissAttr();
    Offset<fb::Prediction> prediction;
    if (facts.costs)
      prediction = buildPrediction(*facts.costs);
    return fb::CreatePlan(builder, string(op.getSymName()), experts, programs,
                          miss ? fb::MissStrategy(miss.getStrategy()) : fb::MissStrategy::none,
                          miss ? miss.getCacheSlots() : 0, preferenceOf(facts.prefer),
                          optional(limits.maxPerplexityIncrease),
                          optional(limits.minTokensPerSecond), optional(limits.bitsPerWeight),
                          optional(limits.deviceMemory), optional(limits.hostMemory), prediction,
                          buildCanaryScore(op.getSymName()), devicePrograms);
  }

  Offset<fb::CanaryScore> buildCanaryScore(StringRef plan) {
    if (!in.facts.canaryFacts)
      return {};
    const CanaryFacts &facts = *in.facts.canaryFacts;
    const auto found = facts.scores.find(plan.str());
    CanaryScore score = found == facts.scores.end() ? CanaryScore() : found->second;
    score.logLikelihoods.resize(facts.tokens.size() - 1);
    auto likelihoods = builder.CreateVector(score.logLikelihoods);
    const ForcedDefaults forced(builder);
    return fb::CreateCanaryScore(builder, likelihoods, score.digest, score.divergence);
  }

  Offset<fb::Prediction> buildPrediction(const PlacementCosts &costs) {
    auto memory = [&](const MemoryUse &use) {
      return fb::CreateMemory(builder, use.weights, use.kvCache, use.activations, use.staging,
                              use.context);
    };
    const Offset<fb::Memory> device =
        in.facts.hasDevice ? memory(costs.device) : Offset<fb::Memory>();
    return fb::CreatePrediction(builder, costs.perplexityIncrease, costs.tokensPerSecond,
                                costs.prefillTokensPerSecond, device, memory(costs.host),
                                in.facts.context, in.facts.batch,
                                optionalString(in.provenance.profileDigest));
  }

  Offset<fb::Canary> buildCanary() {
    const std::optional<CanaryPolicy> &canary = in.facts.canary;
    if (!canary)
      return {};
    const auto maxIncrease = optional(canary->maxPerplexityIncrease);
    const auto maxDivergence = optional(canary->maxDivergence);
    if (!in.facts.canaryFacts)
      return fb::CreateCanary(builder, canary->tokens, canary->everyTokens, maxIncrease,
                              maxDivergence);
    const CanaryFacts &facts = *in.facts.canaryFacts;
    auto tokens = builder.CreateVector(facts.tokens);
    auto likelihoods = builder.CreateVector(facts.reference.logLikelihoods);
    auto topTokens = builder.CreateVector(facts.reference.tokens);
    auto topProbabilities = builder.CreateVector(facts.reference.logProbabilities);
    const ForcedDefaults forced(builder);
    return fb::CreateCanary(builder, canary->tokens, canary->everyTokens, maxIncrease,
                            maxDivergence, tokens, facts.library, likelihoods, facts.reference.top,
                            topTokens, topProbabilities);
  }

  Offset<fb::Switching> buildSwitching() {
    const std::optional<SwitchPolicy> &switching = in.facts.switching;
    return switching ? fb::CreateSwitching(builder, switching->bandwidthShare,
                                           switching->hysteresis, switching->minSeconds)
                     : Offset<fb::Switching>();
  }

  Offset<fb::Program> buildProgram(plan::ProgramOp program) {
    std::vector<fb::Command> kinds;
    std::vector<Offset<void>> commands;
    auto add = [&](fb::Command kind, Offset<void> command) {
      kinds.push_back(kind);
      commands.push_back(command);
    };
    for (mlir::Operation &op : program.getBody().front()) {
      if (auto dispatch = dyn_cast<plan::DispatchOp>(op)) {
        std::vector<fb::Binding> bindings;
        for (auto [buffer, access] : llvm::zip_equal(
                 dispatch.getOperands_(), dispatch.getAccesses().getAsRange<plan::AccessAttr>()))
          bindings.push_back(binding(buffer, access.getValue(), plan::accessibleBytes(buffer)));
        add(fb::Command::Dispatch,
            fb::CreateDispatch(builder, kernelIndex.at(dispatch.getKernel()), dispatch.getTiles(),
                               dispatch.getPerToken(), builder.CreateVectorOfStructs(bindings))
                .Union());
      } else if (auto copy = dyn_cast<plan::CopyOp>(op)) {
        fb::Binding source = binding(copy.getSource(), plan::Access::Read, copy.getBytes());
        fb::Binding target = binding(copy.getTarget(), plan::Access::Write, copy.getBytes());
        add(fb::Command::Copy, fb::CreateCopy(builder, &source, &target).Union());
      } else if (isa<plan::BarrierOp>(op)) {
        add(fb::Command::Barrier, fb::CreateBarrier(builder).Union());
      } else if (isa<plan::JoinOp>(op)) {
        add(fb::Command::Join, fb::CreateJoin(builder).Union());
      }
    }
    return fb::CreateProgram(builder, string(program.getSymName()), program.getMaxTokens(),
                             program.getArenaBytes().value_or(0),
                             program.getWeightBytesPerToken().value_or(0),
                             builder.CreateVector(kinds), builder.CreateVector(commands),
                             program.getPinnedBytes().value_or(0));
  }

  fb::Binding binding(mlir::Value buffer, plan::Access access, int64_t bytes) {
    fb::BindingKind kind = fb::BindingKind::arena;
    uint32_t index = 0;
    uint64_t offset = 0;
    if (auto alloc = buffer.getDefiningOp<plan::AllocOp>()) {
      offset = alloc.getOffset().value_or(0);
      if (alloc.getBuffer().getType().getMemory() == plan::Memory::Pinned)
        kind = fb::BindingKind::pinned_arena;
    } else if (auto weight = buffer.getDefiningOp<plan::WeightOp>()) {
      kind = fb::BindingKind::segment;
      index = segment(weight.getSegmentAttr());
    } else {
      auto resource = buffer.getDefiningOp<plan::ResourceOp>();
      kind = fb::BindingKind(resource.getKind());
      index = resource.getIndex();
    }
    return fb::Binding(kind, fb::Access(access), index, offset, bytes);
  }

  uint32_t segment(mlir::FlatSymbolRefAttr symbol) const {
    return segmentIndex.at(symbol.getValue());
  }

  Offset<fb::Model> buildModel() {
    auto m = module->getAttrOfType<plan::ModelAttr>(plan::kModelAttrName);
    std::vector<int32_t> eos(m.getEosTokenIds().asArrayRef().begin(),
                             m.getEosTokenIds().asArrayRef().end());
    return fb::CreateModel(
        builder, string("mixtral"), m.getVocabSize(), m.getHiddenSize(), m.getIntermediateSize(),
        m.getNumLayers(), m.getNumAttentionHeads(), m.getNumKeyValueHeads(), m.getHeadDim(),
        m.getNumExperts(), m.getNumExpertsPerTok(), m.getRmsNormEps().getValueAsDouble(),
        m.getRopeTheta().getValueAsDouble(), m.getSlidingWindow(), m.getMaxPositionEmbeddings(),
        m.getTieWordEmbeddings(), m.getBosTokenId(), builder.CreateVector(eos),
        static_cast<fb::KvFormat>(
            findKvFormat(std::string_view(m.getKvCacheFormat().getValue()))->id));
  }

  const MetadataInput &in;
  mlir::ModuleOp module;
  flatbuffers::FlatBufferBuilder builder;
  StringMap<uint32_t> segmentIndex, kernelIndex;
};

} // namespace

std::vector<KernelSpec> moeplan::compiler::collectKernels(mlir::ModuleOp module) {
  StringMap<unsigned> bindings;
  module.walk([&](plan::DispatchOp dispatch) {
    bindings[dispatch.getKernel()] = dispatch.getOperands_().size();
  });
  std::vector<KernelSpec> kernels;
  for (auto op : module.getOps<plan::KernelOp>()) {
    KernelSpec kernel{op.getSymName().str(),
                      op.getImplementation().str(),
                      {},
                      unsigned(op.getBindings().value_or(bindings.lookup(op.getSymName()))),
                      Machine(op.getMachine())};
    for (mlir::NamedAttribute constant : op.getConstants()) {
      std::variant<int64_t, double> value;
      if (auto real = dyn_cast<mlir::FloatAttr>(constant.getValue()))
        value = real.getValueAsDouble();
      else
        value = cast<mlir::IntegerAttr>(constant.getValue()).getInt();
      kernel.constants.emplace_back(constant.getName().str(), value);
    }
    kernels.push_back(std::move(kernel));
  }
  return kernels;
}

std::vector<uint8_t> moeplan::compiler::buildMetadata(const MetadataInput &input) {
  return MetadataBuilder(input).run();
}
