#include "compiler/transforms/converter_base.h"
#include "compiler/transforms/model_converter.h"

#include "llvm/Support/MathExtras.h"

#include <cmath>

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Rows of a weight that a block multiplies, and tokens that it multiplies them with at a time
/// (kernels/cuda/weights.cuh).
constexpr int64_t kBlockRows = 32, kTileTokens = 8;
/// Threads of a block.
const KernelConstant kThreads{"threads", int64_t(256)};

/// Whether all formats of a set have so few bits that a block is bound by its instructions.
bool isNarrow(int64_t formats) {
  return llvm::none_of(kFormats, [&](const FormatInfo &format) {
    return formats >> format.id & 1 && format.bits > 4;
  });
}

/// Expands one placed function into one program of CUDA kernels: six launches a layer.
class CudaConverter : public ConverterBase {
public:
  CudaConverter(ModuleBuilder &module, plan::ProgramOp op, func::FuncOp function,
                int64_t alsoFormats, const KernelTuning &tuning)
      : ConverterBase(module, op, function, alsoFormats, tuning) {}

  void run() { convertAll(*this); }

private:
  friend ConverterBase;
  using ConverterBase::convert;

  int64_t maxTokens() const { return program.maxTokens(); }
  /// Tiles of 8 tokens that a block takes through the weights it has read: few enough to share out.
  int64_t tokenTiles() const { return maxTokens() <= kTileTokens ? 1 : 4; }
  /// Blocks of a product with `rows` rows of a weight.
  Grid productGrid(int64_t rows) const {
    return {int64_t(llvm::divideCeil(rows, kBlockRows) *
                    llvm::divideCeil(maxTokens(), kTileTokens * tokenTiles()))};
  }
  /// Parts of the context that blocks take through attention beside each other: a single token has
  /// too few heads to fill a device.
  int64_t splits() const { return maxTokens() == 1 ? 16 : maxTokens() <= kTileTokens ? 4 : 1; }
  /// Threads of the experts' kernels; more where few bits make instructions the bound.
  int64_t expertThreads(int64_t formats, int64_t usual) const {
    return maxTokens() == 1 && isNarrow(formats) ? 2 * usual : usual;
  }

  void normalize(const Source &from, Value norm, Value rows) override {
    program.dispatch("rms_norm",
                     {{"features", features(norm)}, {"epsilon", from.epsilon}, kThreads},
                     program.tokenGrid(), {read(from.rows), read(from.scale), write(rows)});
  }

  /// y (+)= w x.
  void linear(const Source &x, FlatSymbolRefAttr symbol, Value y, int64_t in, int64_t out,
              bool accumulate, bool logits) {
    Value w = weight(symbol, matrixFormat);
    program.dispatch(
        "linear",
        {{"in_features", in},
         {"out_features", out},
         {"normalize", x.normalize()},
         {"epsilon", x.epsilon},
         {"weight_format", int64_t(format(matrixFormat).id)},
         {"accumulate", int64_t(accumulate)},
         {"logits_rows", int64_t(logits)},
         {"max_tokens", maxTokens()},
         {"token_tiles", tokenTiles()},
         kThreads},
        productGrid(out),
        {read(x.rows), read(x.scaleOrRows()), read(w), accumulate ? readWrite(y) : write(y)});
  }

  void convert(moe::EmbeddingOp op) { convertEmbedding(op, kThreads); }
  void convert(moe::AddOp op) { convertAdd(op, kThreads); }

  void convert(moe::AttentionOp op) {
    const int64_t hidden = features(op.getX()), layer = op.getLayer();
    const int64_t heads = op.getNumHeads(), kvHeads = op.getNumKvHeads(), dim = op.getHeadDim();
    const Source x = source(op.getX());
    Value keys = program.resource(plan::ResourceKind::Keys, layer);
    Value values = program.resource(plan::ResourceKind::Values, layer);
    Value q = program.activation(heads * dim), attended = program.activation(heads * dim);
    // One for each token and head, for attention; one for the router behind it.
    counterIndex = maxTokens() * kvHeads;
    counters = program.alloc((counterIndex + 1) * sizeof(uint32_t));
    Value partial = program.activation(heads * splits() * (dim + 2));
    Value wq = weight(op.getQAttr(), matrixFormat), wk = weight(op.getKAttr(), matrixFormat),
          wv = weight(op.getVAttr(), matrixFormat);
    program.dispatch("qkv",
                     {{"in_features", hidden},
                      {"num_heads", heads},
                      {"num_kv_heads", kvHeads},
                      {"head_dim", dim},
                      {"normalize", x.normalize()},
                      {"epsilon", x.epsilon},
                      {"log_theta", std::log(op.getRopeTheta().convertToDouble())},
                      {"weight_format", int64_t(format(matrixFormat).id)},
                      {"max_tokens", maxTokens()},
                      {"token_tiles", tokenTiles()},
                      kThreads},
                     productGrid((heads + 2 * kvHeads) * dim),
                     {read(x.rows), read(x.scaleOrRows()), read(wq), read(wk), read(wv),
                      readWrite(keys), readWrite(values), write(q), write(counters)});
    program.dispatch(
        "attention",
        {{"num_heads", heads},
         {"num_kv_heads", kvHeads},
         {"head_dim", dim},
         {"sliding_window", int64_t(op.getSlidingWindow())},
         {"splits", splits()},
         {"max_tokens", maxTokens()},
         {"threads", int64_t(128)}},
        program.tokenGrid(kvHeads * splits()),
        {read(q), read(keys), read(values), write(partial), readWrite(counters), write(attended)});
    Value out = resultBuffer(op, op.getResidual(), op.getResult());
    linear({attended, Value(), 0}, op.getOAttr(), out, heads * dim, hidden, bool(op.getResidual()),
           /*logits=*/false);
    buffers[op.getResult()] = out;
  }

  void convert(moe::RouterOp op) {
    auto gate = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, op.getGateAttr());
    const int64_t numExperts = gate.getTensorType().getDimSize(0), topK = features(op.getIds());
    const Source x = source(op.getX());
    Value w = weight(op.getGateAttr(), kVectorFormat);
    const Groups made = groups[op.getIds()] = allocateGroups(numExperts, topK);
    Value ids = program.activation(topK), weights = program.activation(topK);
    program.dispatch("router",
                     {{"features", features(op.getX())},
                      {"num_experts", numExperts},
                      {"top_k", topK},
                      {"normalize", x.normalize()},
                      {"epsilon", x.epsilon},
                      {"max_tokens", maxTokens()},
                      {"counter_index", counterIndex},
                      kThreads},
                     program.tokenGrid(),
                     {read(x.rows), read(x.scaleOrRows()), read(w), write(ids), write(weights),
                      readWrite(counters), write(made.expertBegin), write(made.slotToken),
                      write(made.slotWeight)});
  }

  void convert(moe::ExpertsOp op) {
    const ExpertsShape shape = shapeOf(op);
    const ExpertFormats formats = formatsOf(op);
    const Groups grouped = groups.lookup(op.getIds());
    const Source x = source(op.getX());
    Value table = program.resource(plan::ResourceKind::Experts, op.getLayer());
    Value h = program.activation(shape.topK * shape.intermediate);
    program.dispatch("experts_gate_up",
                     {{"features", shape.hidden},
                      {"intermediate", shape.intermediate},
                      {"num_experts", shape.numExperts},
                      {"top_k", shape.topK},
                      {"formats", formats.up},
                      {"normalize", x.normalize()},
                      {"epsilon", x.epsilon},
                      {"max_tokens", maxTokens()},
                      {"token_tiles", tokenTiles()},
                      {"threads", expertThreads(formats.up, 128)}},
                     {int64_t(llvm::divideCeil(shape.intermediate, kBlockRows)) *
                      std::min(shape.numExperts, maxTokens() * shape.topK)},
                     {read(x.rows), read(x.scaleOrRows()), read(table), read(grouped.expertBegin),
                      read(grouped.slotToken), write(h)});
    Value out = resultBuffer(op, op.getResidual(), op.getResult());
    program.dispatch("experts_down",
                     {{"features", shape.hidden},
                      {"intermediate", shape.intermediate},
                      {"num_experts", shape.numExperts},
                      {"top_k", shape.topK},
                      {"formats", formats.down},
                      {"accumulate", int64_t(bool(op.getResidual()))},
                      {"max_tokens", maxTokens()},
                      {"token_tiles", tokenTiles()},
                      {"threads", expertThreads(formats.down, 512)}},
                     {int64_t(llvm::divideCeil(shape.hidden, kBlockRows) *
                              llvm::divideCeil(maxTokens(), kTileTokens))},
                     {read(h), read(table), read(grouped.expertBegin), read(grouped.slotToken),
                      read(grouped.slotWeight), op.getResidual() ? readWrite(out) : write(out)});
    buffers[op.getResult()] = out;
  }

  void convert(moe::LogitsOp op) {
    const int64_t vocab = features(op.getResult()), width = features(op.getX());
    Value logits =
        program.resource(plan::ResourceKind::Logits, 0, maxTokens() * vocab * sizeof(float));
    linear(source(op.getX()), op.getWeightAttr(), logits, width, vocab, false, /*logits=*/true);
  }

  /// Zeros once qkv has run; how the last block of attention, then of the router, knows that it is
  /// the last. Of the layer at hand.
  Value counters;
  int64_t counterIndex = 0; ///< the router's
};

/// Why there are no CUDA kernels for what `function` does; empty where there are.
std::string reasonAgainst(func::FuncOp function) {
  bool cleared = false; // the router's counter
  std::string reason;
  auto nonExperts = function->getAttrOfType<StringAttr>(moe::kNonExpertFormatAttrName);
  if (nonExperts && nonExperts.getValue() == "f32")
    reason = "the CUDA kernels multiply matrices in bf16 or packed formats, not in f32";
  function.walk([&](Operation *op) {
    if (auto attention = dyn_cast<moe::AttentionOp>(op)) {
      cleared = true;
      if (attention.getHeadDim() % kBlockRows != 0)
        reason = "the CUDA kernels need a head_dim that is a multiple of " +
                 std::to_string(kBlockRows) + ", the model has " +
                 std::to_string(attention.getHeadDim());
    } else if (auto experts = dyn_cast<moe::ExpertsOp>(op)) {
      for (auto expert : experts.getExperts().getAsRange<moe::ExpertAttr>())
        for (StringAttr name : {expert.getPlacement().getW1(), expert.getPlacement().getW3(),
                                expert.getPlacement().getW2()})
          if (name.getValue() == "f32")
            reason = "the CUDA kernels read experts in bf16 or packed formats, not in f32";
    } else if (isa<moe::RouterOp>(op)) {
      if (!cleared && reason.empty())
        reason = "the CUDA kernels need an attention before each router";
      cleared = false;
    }
  });
  return reason;
}

} // namespace

LogicalResult moeplan::compiler::convertModelForCuda(ModuleBuilder &module, plan::ProgramOp program,
                                                     func::FuncOp function,
                                                     const KvFormatInfo &kvFormat,
                                                     int64_t alsoFormats,
                                                     const KernelTuning &tuning) {
  if (kvFormat.id != MOEPLAN_KV_BF16)
    return function.emitError() << "on CUDA devices the KV cache is bf16, not "
                                << StringRef(kvFormat.name)
                                << ": leave out --kv-format, or the CUDA targets";
  if (const std::string reason = reasonAgainst(function); !reason.empty())
    return function.emitError() << reason << ": leave out the CUDA targets";
  CudaConverter(module, program, function, alsoFormats, tuning).run();
  return success();
}
