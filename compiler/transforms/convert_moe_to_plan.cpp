#include "compiler/transforms/model_converter.h"
#include "compiler/transforms/passes.h"

#include "formats.h"

namespace moeplan::compiler {
#define GEN_PASS_DEF_CONVERTMOETOPLAN
#include "compiler/transforms/Passes.h.inc"
} // namespace moeplan::compiler

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Fails, with an error, where `function` holds what no program can.
LogicalResult checkConvertible(func::FuncOp function) {
  if (!function.getBody().hasOneBlock())
    return function.emitError("must have a body of one block");
  for (Operation &op : function.front().without_terminator()) {
    if (!isa<moe::EmbeddingOp, moe::RmsNormOp, moe::AttentionOp, moe::RouterOp, moe::ExpertsOp,
             moe::AddOp, moe::LogitsOp>(op))
      return op.emitOpError("has no counterpart in a plan");
    for (OpOperand &operand : op.getOpOperands()) {
      Operation *source = operand.get().getDefiningOp();
      // A program is given tokens and nothing else, and its logits are its output.
      if (!isa<moe::EmbeddingOp>(op) && (!source || isa<moe::LogitsOp>(source)))
        return op.emitOpError() << "operand " << operand.getOperandNumber()
                                << " must be an activation that the function computes";
    }
  }
  return success();
}

/// Programs of up to as many tokens are for the next token of several sequences.
constexpr int64_t kMaxDecodeTokens = 8;

bool ascends(ArrayRef<int64_t> values) {
  return llvm::is_sorted(values) &&
         std::adjacent_find(values.begin(), values.end()) == values.end();
}

plan::Memory toMemory(moe::Residency residency) {
  return residency == moe::Residency::Host ? plan::Memory::Host : plan::Memory::Device;
}

// The dialects' enums are the same.
static_assert(int(moe::MissStrategy::Cached) == int(plan::MissStrategy::Cached));

/// What the placed function says of misses; null where it says nothing.
plan::MissAttr missOf(func::FuncOp function) {
  auto miss = function->getAttrOfType<moe::MissAttr>(moe::kMissAttrName);
  return miss ? plan::MissAttr::get(function.getContext(), plan::MissStrategy(miss.getStrategy()),
                                    miss.getCacheSlots())
              : plan::MissAttr();
}

struct ConvertMoeToPlanPass : compiler::impl::ConvertMoeToPlanBase<ConvertMoeToPlanPass> {
  using ConvertMoeToPlanBase::ConvertMoeToPlanBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto config = module->getAttrOfType<moe::ConfigAttr>(moe::kConfigAttrName);
    const KvFormatInfo *kv = findKvFormat(std::string_view(kvFormat.getValue()));
    if (!config || !kv) {
      if (!config)
        module.emitError() << "module has no " << moe::kConfigAttrName;
      else
        module.emitError() << "unknown kv-format '" << kvFormat.getValue()
                           << "': f32, bf16 or int8";
      return signalPassFailure();
    }
    auto parsed = KernelTuning::parse(tuningText);
    if (!parsed) {
      module.emitError() << llvm::toString(parsed.takeError());
      return signalPassFailure();
    }
    tuning = *parsed;
    SmallVector<int64_t> buckets{1};
    llvm::append_range(buckets, prefillTokens);
    if (prefillTokens.empty())
      buckets.append({8, 64, 512});
    if (!ascends(buckets)) {
      module.emitError("prefill-tokens must ascend and exceed 1");
      return signalPassFailure();
    }

    if (!deviceTokens.empty() && (deviceTokens.front() != 1 || !ascends(deviceTokens))) {
      module.emitError("device-tokens must ascend from 1");
      return signalPassFailure();
    }

    std::optional<int64_t> also = alsoFormatSet();
    if (!also)
      return signalPassFailure();
    ModuleBuilder symbols(module);
    for (auto function : llvm::make_early_inc_range(module.getOps<func::FuncOp>())) {
      if (!function->hasAttr(moe::kTierAttrName)) {
        function.emitError("has no placement: run apply-placement first");
        return signalPassFailure();
      }
      if (failed(convertFunction(symbols, function, buckets, *kv, *also)))
        return signalPassFailure();
    }
    if (synthetic && !deviceTokens.empty())
      symbols.kernel("generate_weight", {{"threads", int64_t(256)}}, plan::Machine::Cuda,
                     /*bindings=*/1);
    for (auto weight : llvm::make_early_inc_range(module.getOps<moe::WeightOp>()))
      weight.erase();
    module->setAttr(plan::kModelAttrName, modelAttr(config, kv->name));
    module->removeAttr(moe::kConfigAttrName);
  }

  /// `also-formats` as a bit set; nothing, with an error, where one is unknown.
  std::optional<int64_t> alsoFormatSet() {
    int64_t set = 0;
    for (const std::string &name : alsoFormats) {
      const FormatInfo *info = findFormat(std::string_view(name));
      if (!info) {
        getOperation().emitError() << "unknown format '" << name << "' in also-formats";
        return std::nullopt;
      }
      set |= int64_t(1) << info->id;
    }
    return set;
  }

  LogicalResult convertFunction(ModuleBuilder &symbols, func::FuncOp function,
                                ArrayRef<int64_t> buckets, const KvFormatInfo &kv, int64_t also) {
    if (failed(checkConvertible(function)))
      return failure();
    OpBuilder builder(function);
    auto planOp =
        builder.create<plan::PlanOp>(function.getLoc(), function.getSymName(), missOf(function));
    Block *body = builder.createBlock(&planOp.getBody());

    auto unplaced = function.walk([&](moe::ExpertsOp op) {
      SmallVector<Attribute> rows;
      for (auto expert : op.getExperts().getAsRange<moe::ExpertAttr>()) {
        moe::PlacementAttr placement = expert.getPlacement();
        if (!placement)
          return op.emitOpError("has no placement"), WalkResult::interrupt();
        auto linear = [&](FlatSymbolRefAttr symbol, StringAttr formatName) {
          auto weight = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, symbol);
          return FlatSymbolRefAttr::get(symbols.segment(weight.getSymName(), weight.getSource(),
                                                        weight.getTensorType().getShape(),
                                                        formatName.getValue()));
        };
        rows.push_back(plan::ExpertAttr::get(
            &getContext(), linear(expert.getW1(), placement.getW1()),
            linear(expert.getW3(), placement.getW3()), linear(expert.getW2(), placement.getW2()),
            toMemory(placement.getResidency())));
      }
      builder.create<plan::ExpertTableOp>(op.getLoc(), op.getLayer(), builder.getArrayAttr(rows));
      return WalkResult::advance();
    });
    if (unplaced.wasInterrupted())
      return failure();

    auto addProgram = [&](const std::string &name, int64_t tokens, plan::Memory memory) {
      builder.setInsertionPointToEnd(body);
      auto program = builder.create<plan::ProgramOp>(function.getLoc(), name, tokens, memory,
                                                     IntegerAttr(), IntegerAttr(), IntegerAttr());
      program.getBody().emplaceBlock();
      return program;
    };
    for (int64_t tokens : buckets)
      convertModel(symbols,
                   addProgram(tokens == 1 ? "decode" : "prefill_" + std::to_string(tokens), tokens,
                              plan::Memory::Host),
                   function, kv, also, tuning);
    for (int64_t tokens : deviceTokens) {
      const std::string name = tokens > kMaxDecodeTokens ? "device_prefill" : "device_decode";
      if (failed(convertModelForCuda(
              symbols,
              addProgram(tokens == 1 ? name : name + "_" + std::to_string(tokens), tokens,
                         plan::Memory::Device),
              function, kv, also, tuning)))
        return failure();
    }
    function.erase();
    return success();
  }

  plan::ModelAttr modelAttr(moe::ConfigAttr c, std::string_view kvName) {
    return plan::ModelAttr::get(
        &getContext(), c.getVocabSize(), c.getHiddenSize(), c.getIntermediateSize(),
        c.getNumLayers(), c.getNumAttentionHeads(), c.getNumKeyValueHeads(), c.getHeadDim(),
        c.getNumExperts(), c.getNumExpertsPerTok(), c.getRmsNormEps(), c.getRopeTheta(),
        c.getSlidingWindow(), c.getMaxPositionEmbeddings(), c.getTieWordEmbeddings(),
        c.getBosTokenId(), c.getEosTokenIds(), StringAttr::get(&getContext(), StringRef(kvName)));
  }

  KernelTuning tuning;
};

} // namespace
