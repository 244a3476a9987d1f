#include "compiler/transforms/passes.h"
#include "compiler/transforms/program_builder.h"

#include "formats.h"

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/TypeSwitch.h"

#include <cmath>

namespace moeplan::compiler {
#define GEN_PASS_DEF_CONVERTMOETOPLAN
#include "compiler/transforms/Passes.h.inc"
} // namespace moeplan::compiler

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Norms and the router's gate are small and sensitive: always float32.
constexpr StringLiteral kVectorFormat = "f32";

const FormatInfo &format(StringRef name) { return *findFormat(std::string_view(name)); }

int64_t features(Value activation) {
  return cast<RankedTensorType>(activation.getType()).getDimSize(1);
}

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

/// Expands one placed function into one program.
class ModelConverter {
public:
  ModelConverter(ModuleBuilder &module, plan::ProgramOp op, func::FuncOp function,
                 const FormatInfo &kvFormat, int64_t alsoFormats)
      : module(module), program(module, op), programOp(op), function(function), kvFormat(kvFormat),
        alsoFormats(alsoFormats) {
    if (auto format = function->getAttrOfType<StringAttr>(moe::kNonExpertFormatAttrName))
      matrixFormat = format.getValue();
  }

  void run() {
    for (Operation &op : function.front())
      llvm::TypeSwitch<Operation *>(&op)
          .Case<moe::EmbeddingOp, moe::RmsNormOp, moe::AttentionOp, moe::RouterOp, moe::ExpertsOp,
                moe::AddOp, moe::LogitsOp>([&](auto typed) { convert(typed); });
    programOp.setWeightBytesPerToken(weightBytesPerToken);
  }

private:
  plan::SegmentOp segment(FlatSymbolRefAttr symbol, StringRef formatName) {
    auto weight = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, symbol);
    return module.segment(weight.getSymName(), weight.getSource(),
                          weight.getTensorType().getShape(), formatName);
  }

  /// A weight that every token reads whole.
  Value weight(FlatSymbolRefAttr symbol, StringRef formatName) {
    plan::SegmentOp op = segment(symbol, formatName);
    weightBytesPerToken += op.getBytes();
    return program.weight(op);
  }

  /// Only the last norm and the logits may skip rows that nobody asked for.
  static bool feedsLogitsOnly(Value value) {
    return value.hasOneUse() && isa<moe::LogitsOp>(*value.user_begin());
  }

  /// The buffer that `op` adds its result to: the residual's own where `op` is its last user, else
  /// a copy of it; a fresh one where there is no residual.
  Value resultBuffer(Operation *op, Value residual, Value result) {
    if (!residual)
      return program.activation(features(result));
    bool lastUse = llvm::all_of(residual.getUsers(), [&](Operation *user) {
      return user == op || user->isBeforeInBlock(op);
    });
    if (lastUse)
      return buffers.lookup(residual);
    Value copy = program.activation(features(result));
    program.copy(buffers.lookup(residual), copy, program.maxTokens() * features(result) * 4);
    return copy;
  }

  void linear(Value x, FlatSymbolRefAttr symbol, Value y, int64_t in, int64_t out, bool accumulate,
              bool logitsRows = false) {
    const FormatInfo &f = format(matrixFormat);
    int64_t rows = program.rowsPerTile(out, formatRowBytes(f, in));
    Value w = weight(symbol, matrixFormat);
    program.dispatch("linear",
                     {{"in_features", in},
                      {"out_features", out},
                      {"weight_format", int64_t(f.id)},
                      {"rows_per_tile", rows},
                      {"accumulate", int64_t(accumulate)},
                      {"max_tokens", singleToken()},
                      {"logits_rows", int64_t(logitsRows)}},
                     program.rowGrid(out, rows),
                     {read(x), read(w), accumulate ? readWrite(y) : write(y)});
  }

  /// Kernels care only whether there is one token: all prefill programs share theirs.
  int64_t singleToken() const { return program.maxTokens() == 1 ? 1 : 0; }

  void convert(moe::EmbeddingOp op) {
    plan::SegmentOp table = segment(op.getTableAttr(), matrixFormat);
    int64_t width = features(op.getResult());
    weightBytesPerToken += formatRowBytes(format(matrixFormat), width);
    Value tokens =
        program.resource(plan::ResourceKind::Tokens, 0, program.maxTokens() * sizeof(int32_t));
    Value out = buffers[op.getResult()] = program.activation(width);
    program.dispatch("embedding",
                     {{"features", width},
                      {"vocab_size", table.getShape()[0]},
                      {"weight_format", int64_t(format(matrixFormat).id)}},
                     program.tokenGrid(), {read(tokens), read(program.weight(table)), write(out)});
  }

  void convert(moe::RmsNormOp op) {
    int64_t width = features(op.getX());
    Value scale = weight(op.getWeightAttr(), kVectorFormat);
    Value out = buffers[op.getResult()] = program.activation(width);
    program.dispatch("rms_norm",
                     {{"features", width},
                      {"epsilon", op.getEpsilon().convertToDouble()},
                      {"logits_rows", int64_t(feedsLogitsOnly(op.getResult()))}},
                     program.tokenGrid(),
                     {read(buffers.lookup(op.getX())), read(scale), write(out)});
  }

  /// The (cos, sin) table of the program's positions, made once and shared by all layers.
  Value ropeTable(int64_t headDim, double theta) {
    Value &table = ropeTables[{headDim, llvm::bit_cast<int64_t>(theta)}];
    if (!table) {
      table = program.activation(headDim);
      program.dispatch("rope_table", {{"head_dim", headDim}, {"log_theta", std::log(theta)}},
                       program.tokenGrid(), {write(table)});
    }
    return table;
  }

  void convert(moe::AttentionOp op) {
    int64_t hidden = features(op.getX()), layer = op.getLayer();
    int64_t heads = op.getNumHeads(), kvHeads = op.getNumKvHeads(), dim = op.getHeadDim();
    Value rope = ropeTable(dim, op.getRopeTheta().convertToDouble());
    Value x = buffers.lookup(op.getX());
    Value q = program.activation(heads * dim), k = program.activation(kvHeads * dim),
          v = program.activation(kvHeads * dim);
    linear(x, op.getQAttr(), q, hidden, heads * dim, false);
    linear(x, op.getKAttr(), k, hidden, kvHeads * dim, false);
    linear(x, op.getVAttr(), v, hidden, kvHeads * dim, false);

    Value keys = program.resource(plan::ResourceKind::Keys, layer);
    Value values = program.resource(plan::ResourceKind::Values, layer);
    program.dispatch("rope_append",
                     {{"num_heads", heads},
                      {"num_kv_heads", kvHeads},
                      {"head_dim", dim},
                      {"kv_format", int64_t(kvFormat.id)}},
                     program.tokenGrid(),
                     {readWrite(q), read(k), read(v), read(rope), write(keys), write(values)});

    Value attended = program.activation(heads * dim);
    program.dispatch("attention",
                     {{"num_heads", heads},
                      {"num_kv_heads", kvHeads},
                      {"head_dim", dim},
                      {"kv_format", int64_t(kvFormat.id)},
                      {"sliding_window", int64_t(op.getSlidingWindow())}},
                     program.tokenGrid(heads),
                     {read(q), read(keys), read(values), write(attended)});

    Value out = resultBuffer(op, op.getResidual(), op.getResult());
    linear(attended, op.getOAttr(), out, heads * dim, hidden, bool(op.getResidual()));
    buffers[op.getResult()] = out;
  }

  void convert(moe::RouterOp op) {
    auto gate = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, op.getGateAttr());
    int64_t numExperts = gate.getTensorType().getDimSize(0), topK = features(op.getIds());
    Value w = weight(op.getGateAttr(), kVectorFormat);
    Value scores = program.activation(numExperts);
    Value ids = buffers[op.getIds()] = program.activation(topK);
    Value weights = buffers[op.getWeights()] = program.activation(topK);
    program.dispatch(
        "router", {{"features", features(op.getX())}, {"num_experts", numExperts}, {"top_k", topK}},
        program.tokenGrid(),
        {read(buffers.lookup(op.getX())), read(w), write(scores), write(ids), write(weights)});
  }

  void convert(moe::ExpertsOp op) {
    int64_t hidden = features(op.getX()), topK = features(op.getIds());
    int64_t numExperts = op.getExperts().size();
    auto first = cast<moe::ExpertAttr>(op.getExperts()[0]);
    int64_t intermediate =
        SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, first.getW1())
            .getTensorType()
            .getDimSize(0);

    // The formats that occur, as bit sets, and the bytes of an average expert.
    int64_t upFormats = alsoFormats, downFormats = alsoFormats;
    int64_t expertBytes = 0, widestUp = 0, widestDown = 0;
    for (auto expert : op.getExperts().getAsRange<moe::ExpertAttr>()) {
      moe::PlacementAttr placement = expert.getPlacement();
      for (StringAttr name : {placement.getW1(), placement.getW3()}) {
        upFormats |= 1 << format(name.getValue()).id;
        widestUp = std::max<int64_t>(widestUp, formatRowBytes(format(name.getValue()), hidden));
        expertBytes += *formatBytes(format(name.getValue()), intermediate, hidden);
      }
      const FormatInfo &down = format(placement.getW2().getValue());
      downFormats |= 1 << down.id;
      widestDown = std::max<int64_t>(widestDown, formatRowBytes(down, intermediate));
      expertBytes += *formatBytes(down, hidden, intermediate);
    }
    weightBytesPerToken += expertBytes * topK / numExperts;

    Value table = program.resource(plan::ResourceKind::Experts, op.getLayer());
    int64_t slots = program.maxTokens() * topK;
    Value expertBegin = program.alloc((numExperts + 1) * sizeof(uint32_t));
    Value slotToken = program.alloc(slots * sizeof(uint32_t));
    Value slotWeight = program.alloc(slots * sizeof(float));
    program.dispatch("group_by_expert", {{"num_experts", numExperts}, {"top_k", topK}}, {1},
                     {read(buffers.lookup(op.getIds())), read(buffers.lookup(op.getWeights())),
                      write(expertBegin), write(slotToken), write(slotWeight)});

    Value h = program.alloc(slots * intermediate * sizeof(float));
    int64_t rows = program.rowsPerTile(intermediate, widestUp);
    program.dispatch("experts_gate_up",
                     {{"features", hidden},
                      {"intermediate", intermediate},
                      {"num_experts", numExperts},
                      {"formats", upFormats},
                      {"rows_per_tile", rows}},
                     program.rowGrid(intermediate, rows),
                     {read(buffers.lookup(op.getX())), read(table), read(expertBegin),
                      read(slotToken), write(h)});

    Value out = resultBuffer(op, op.getResidual(), op.getResult());
    rows = program.rowsPerTile(hidden, widestDown);
    program.dispatch("experts_down",
                     {{"features", hidden},
                      {"intermediate", intermediate},
                      {"num_experts", numExperts},
                      {"formats", downFormats},
                      {"rows_per_tile", rows},
                      {"accumulate", int64_t(bool(op.getResidual()))}},
                     program.rowGrid(hidden, rows),
                     {read(h), read(table), read(expertBegin), read(slotToken), read(slotWeight),
                      op.getResidual() ? readWrite(out) : write(out)});
    buffers[op.getResult()] = out;
  }

  void convert(moe::AddOp op) {
    Value out = buffers[op.getResult()] = program.activation(features(op.getResult()));
    program.dispatch(
        "add", {{"features", features(op.getResult())}}, program.tokenGrid(),
        {read(buffers.lookup(op.getX())), read(buffers.lookup(op.getY())), write(out)});
  }

  void convert(moe::LogitsOp op) {
    int64_t vocab = features(op.getResult());
    Value logits = program.resource(plan::ResourceKind::Logits, 0,
                                    program.maxTokens() * vocab * sizeof(float));
    linear(buffers.lookup(op.getX()), op.getWeightAttr(), logits, features(op.getX()), vocab, false,
           /*logitsRows=*/true);
  }

  ModuleBuilder &module;
  ProgramBuilder program;
  plan::ProgramOp programOp;
  func::FuncOp function;
  const FormatInfo &kvFormat;
  int64_t alsoFormats;             ///< bit set
  StringRef matrixFormat = "bf16"; ///< of everything outside the experts that is no vector
  llvm::DenseMap<Value, Value> buffers;
  llvm::DenseMap<std::pair<int64_t, int64_t>, Value> ropeTables;
  int64_t weightBytesPerToken = 0;
};

plan::Memory toMemory(moe::Residency residency) {
  return residency == moe::Residency::Host ? plan::Memory::Host : plan::Memory::Device;
}

struct ConvertMoeToPlanPass : compiler::impl::ConvertMoeToPlanBase<ConvertMoeToPlanPass> {
  using ConvertMoeToPlanBase::ConvertMoeToPlanBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto config = module->getAttrOfType<moe::ConfigAttr>(moe::kConfigAttrName);
    const FormatInfo *kv = findFormat(std::string_view(kvFormat.getValue()));
    if (!config || !kv || kv->isPacked()) {
      if (!config)
        module.emitError() << "module has no " << moe::kConfigAttrName;
      else
        module.emitError() << (kv ? "a KV cache cannot be of format '" : "unknown kv-format '")
                           << kvFormat.getValue() << "'";
      return signalPassFailure();
    }
    SmallVector<int64_t> buckets{1};
    llvm::append_range(buckets, prefillTokens);
    if (prefillTokens.empty())
      buckets.append({64, 256});
    if (!llvm::is_sorted(buckets) ||
        std::adjacent_find(buckets.begin(), buckets.end()) != buckets.end()) {
      module.emitError("prefill-tokens must ascend and exceed 1");
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
                                ArrayRef<int64_t> buckets, const FormatInfo &kv, int64_t also) {
    if (failed(checkConvertible(function)))
      return failure();
    OpBuilder builder(function);
    auto planOp = builder.create<plan::PlanOp>(function.getLoc(), function.getSymName());
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

    for (int64_t tokens : buckets) {
      std::string name = tokens == 1 ? "decode" : "prefill_" + std::to_string(tokens);
      builder.setInsertionPointToEnd(body);
      auto program = builder.create<plan::ProgramOp>(
          function.getLoc(), name, tokens, plan::Memory::Host, IntegerAttr(), IntegerAttr());
      program.getBody().emplaceBlock();
      ModelConverter(symbols, program, function, kv, also).run();
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
};

} // namespace
