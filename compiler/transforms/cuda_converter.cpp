#include "compiler/transforms/converter_base.h"
#include "compiler/transforms/model_converter.h"
#include "cpu/operand.h"

#include "llvm/Support/MathExtras.h"

#include <cmath>

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Rows of a weight that a block multiplies, and the most tokens that it multiplies them with
/// (kernels/cuda/product.cuh).
constexpr int64_t kBlockRows = 32, kDecodeTokens = 8;
/// Blocks that read over the link: enough loads under way to fill it.
constexpr int64_t kFetchBlocks = 128;
/// Attention keeps all elements of a head in a warp's registers: few threads a block, no larger
/// head.
constexpr int64_t kAttentionThreads = 128, kMostHeadDim = 256;
/// Threads of a block of everything else.
const KernelConstant kThreads{"threads", int64_t(256)};

/// Whether all formats of a set have so few bits that a block is bound by its instructions.
bool isNarrow(int64_t formats) {
  return llvm::none_of(kFormats, [&](const FormatInfo &format) {
    return formats >> format.id & 1 && format.bits > 4;
  });
}

/// bf16 elements of a row of activations that a product of a prompt reads
/// (kernels/cuda/rounded.cuh).
int64_t roundedColumns(int64_t columns) { return llvm::alignTo(columns, MOEPLAN_BLOCK_COLUMNS); }

/// Expands one placed function into one program of CUDA kernels: six launches a layer, nine where
/// many tokens make it worth while to round and to gather rows for tensor cores first.
class CudaConverter : public ConverterBase {
public:
  CudaConverter(ModuleBuilder &module, plan::ProgramOp op, func::FuncOp function,
                int64_t alsoFormats, const KernelTuning &tuning)
      : ConverterBase(module, op, function, alsoFormats, tuning),
        host(ProgramBuilder::forHost(module, op, tuning)) {}

  void run() { convertAll(*this); }

private:
  friend ConverterBase;
  using ConverterBase::convert;

  int64_t maxTokens() const { return program.maxTokens(); }
  /// Whether products take tiles of many tokens (kernels/cuda/matrix.cuh).
  bool isPrompt() const { return maxTokens() > kDecodeTokens; }
  /// Tokens of such a tile, and threads of its blocks: fewer where there are few tiles to share
  /// out.
  static constexpr int64_t kPromptTile = 64;
  KernelConstant promptThreads() const {
    return {"threads", int64_t(maxTokens() <= kPromptTile ? 64 : 128)};
  }
  Grid promptGrid(int64_t rows) const {
    return {int64_t(llvm::divideCeil(rows, promptThreads().integer) *
                    llvm::divideCeil(maxTokens(), kPromptTile))};
  }
  /// Blocks of a product with `rows` rows of a weight, for few tokens.
  Grid productGrid(int64_t rows) const { return {int64_t(llvm::divideCeil(rows, kBlockRows))}; }
  /// Parts of the context that blocks take through attention beside each other: few tokens have too
  /// few heads to fill a device.
  int64_t splits() const { return maxTokens() == 1 ? 16 : 4; }
  /// Threads of the experts' kernels; more where few bits make instructions the bound.
  int64_t expertThreads(int64_t formats, int64_t usual) const {
    return maxTokens() == 1 && isNarrow(formats) ? 2 * usual : usual;
  }

  void normalize(const Source &from, Value norm, Value rows) override {
    program.dispatch("rms_norm",
                     {{"features", features(norm)}, {"epsilon", from.epsilon}, kThreads},
                     program.tokenGrid(), {read(from.rows), read(from.scale), write(rows)});
  }

  /// The rows of `x`, normalised and rounded for the products of a prompt.
  Value roundedRows(const Source &x, int64_t width) {
    Value rows = program.alloc(maxTokens() * roundedColumns(width) * sizeof(uint16_t));
    program.dispatch(
        "rounded_rows",
        {{"features", width}, {"normalize", x.normalize()}, {"epsilon", x.epsilon}, kThreads},
        program.tokenGrid(), {read(x.rows), read(x.scaleOrRows()), write(rows)});
    return rows;
  }

  struct LinearShape {
    int64_t in, out;
    bool accumulate;
    bool wantedOnly; ///< only of the rows whose logits are wanted
  };
  /// y (+)= w x.
  void linear(const Source &x, FlatSymbolRefAttr symbol, Value y, const LinearShape &shape) {
    if (isPrompt())
      return promptLinear(roundedRows(x, shape.in), symbol, y, shape);
    Value w = weight(symbol, matrixFormat);
    program.dispatch(
        "linear",
        {{"in_features", shape.in},
         {"out_features", shape.out},
         {"normalize", x.normalize()},
         {"epsilon", x.epsilon},
         {"weight_format", int64_t(format(matrixFormat).id)},
         {"accumulate", int64_t(shape.accumulate)},
         {"logits_rows", int64_t(shape.wantedOnly)},
         {"max_tokens", maxTokens()},
         kThreads},
        productGrid(shape.out),
        {read(x.rows), read(x.scaleOrRows()), read(w), shape.accumulate ? readWrite(y) : write(y)});
  }
  void promptLinear(Value rows, FlatSymbolRefAttr symbol, Value y, const LinearShape &shape) {
    Value w = weight(symbol, matrixFormat);
    program.dispatch("linear_prompt",
                     {{"in_features", shape.in},
                      {"out_features", shape.out},
                      {"weight_format", int64_t(format(matrixFormat).id)},
                      {"accumulate", int64_t(shape.accumulate)},
                      {"logits_rows", int64_t(shape.wantedOnly)},
                      {"max_tokens", maxTokens()},
                      {"tile_tokens", kPromptTile},
                      promptThreads()},
                     promptGrid(shape.out),
                     {read(rows), read(w), shape.accumulate ? readWrite(y) : write(y)});
  }

  void convert(moe::EmbeddingOp op) { convertEmbedding(op, kThreads); }
  void convert(moe::AddOp op) { convertAdd(op, kThreads); }

  /// Where the output projection writes.
  Value projected(moe::AttentionOp op) {
    return buffers[op.getResult()] = resultBuffer(op, op.getResidual(), op.getResult());
  }
  void convert(moe::AttentionOp op) {
    const int64_t hidden = features(op.getX()), layer = op.getLayer();
    const int64_t heads = op.getNumHeads(), kvHeads = op.getNumKvHeads(), dim = op.getHeadDim();
    const Source x = source(op.getX());
    Value keys = program.resource(plan::ResourceKind::Keys, layer);
    Value values = program.resource(plan::ResourceKind::Values, layer);
    Value q = program.activation(heads * dim);
    // One for each token and head, for attention; one for the router behind it.
    counterIndex = maxTokens() * kvHeads;
    counters = program.alloc((counterIndex + 1) * sizeof(uint32_t));
    Value wq = weight(op.getQAttr(), matrixFormat), wk = weight(op.getKAttr(), matrixFormat),
          wv = weight(op.getVAttr(), matrixFormat);
    SmallVector<KernelConstant> constants{
        {"in_features", hidden},
        {"num_heads", heads},
        {"num_kv_heads", kvHeads},
        {"head_dim", dim},
        {"log_theta", std::log(op.getRopeTheta().convertToDouble())},
        {"weight_format", int64_t(format(matrixFormat).id)},
        {"max_tokens", maxTokens()}};
    SmallVector<Operand> operands;
    if (isPrompt()) {
      constants.append({{"tile_tokens", kPromptTile}, promptThreads()});
      operands.push_back(read(roundedRows(x, hidden)));
    } else {
      constants.append({{"normalize", x.normalize()}, {"epsilon", x.epsilon}, kThreads});
      operands.append({read(x.rows), read(x.scaleOrRows())});
    }
    operands.append({read(wq), read(wk), read(wv), readWrite(keys), readWrite(values), write(q),
                     write(counters)});
    const int64_t rows = (heads + 2 * kvHeads) * dim;
    program.dispatch(isPrompt() ? "qkv_prompt" : "qkv", constants,
                     isPrompt() ? promptGrid(rows) : productGrid(rows), operands);

    const LinearShape shape{heads * dim, hidden, bool(op.getResidual()), /*wantedOnly=*/false};
    SmallVector<KernelConstant> attention{
        {"num_heads", heads},        {"num_kv_heads", kvHeads},
        {"head_dim", dim},           {"sliding_window", int64_t(op.getSlidingWindow())},
        {"max_tokens", maxTokens()}, {"threads", kAttentionThreads}};
    if (isPrompt()) {
      // A warp takes 16 rows: queries of a token and of a head that share keys and values.
      const int64_t rowsOfBlock = kAttentionThreads / 32 * 16;
      Value attended = program.alloc(maxTokens() * heads * dim * sizeof(uint16_t));
      program.dispatch(
          "attention_prompt", attention,
          {int64_t(kvHeads * llvm::divideCeil(maxTokens() * (heads / kvHeads), rowsOfBlock))},
          {read(q), read(keys), read(values), write(attended)});
      promptLinear(attended, op.getOAttr(), projected(op), shape);
      return;
    }
    Value attended = program.activation(heads * dim);
    Value partial = program.activation(heads * splits() * (dim + 2));
    attention.push_back({"splits", splits()});
    program.dispatch(
        "attention", attention, program.tokenGrid(kvHeads * splits()),
        {read(q), read(keys), read(values), write(partial), readWrite(counters), write(attended)});
    linear({attended, Value(), 0}, op.getOAttr(), projected(op), shape);
  }

  void convert(moe::RouterOp op) {
    auto gate = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, op.getGateAttr());
    const int64_t numExperts = gate.getTensorType().getDimSize(0), topK = features(op.getIds());
    const Source x = source(op.getX());
    Value w = weight(op.getGateAttr(), kVectorFormat);
    const Groups made = groups[op.getIds()] = allocateGroups(program, numExperts, topK);
    Value ids = buffers[op.getIds()] = program.activation(topK);
    Value weights = program.activation(topK);
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

  void decodeExperts(const ExpertsShape &shape, const ExpertFormats &formats, const Source &x,
                     const Groups &grouped, Value table, const Operand &result) {
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
                      {"threads", expertThreads(formats.up, 128)}},
                     {int64_t(llvm::divideCeil(shape.intermediate, kBlockRows)) *
                      std::min(shape.numExperts, maxTokens() * shape.topK)},
                     {read(x.rows), read(x.scaleOrRows()), read(table), read(grouped.expertBegin),
                      read(grouped.slotToken), write(h)});
    program.dispatch("experts_down",
                     {{"features", shape.hidden},
                      {"intermediate", shape.intermediate},
                      {"num_experts", shape.numExperts},
                      {"top_k", shape.topK},
                      {"formats", formats.down},
                      {"accumulate", int64_t(result.access == plan::Access::ReadWrite)},
                      {"max_tokens", maxTokens()},
                      {"threads", expertThreads(formats.down, 512)}},
                     productGrid(shape.hidden),
                     {read(h), read(table), read(grouped.expertBegin), read(grouped.slotToken),
                      read(grouped.slotWeight), result});
  }

  void promptExperts(const ExpertsShape &shape, const ExpertFormats &formats, const Source &x,
                     const Groups &grouped, Value table, const Operand &result) {
    const int64_t slots = maxTokens() * shape.topK;
    // As many tokens as an expert has on average: a tile's products are made whether it is full or
    // not.
    const int64_t tokens = std::clamp<int64_t>(
        llvm::PowerOf2Ceil(llvm::divideCeil(slots, shape.numExperts)), 16, kPromptTile);
    const int64_t tiles = slots / tokens + std::min(shape.numExperts, slots);
    const KernelConstant tile{"tile_tokens", tokens}, threads{"threads", int64_t(128)};
    const auto grid = [&](int64_t rows, int64_t ofBlock) {
      return Grid{int64_t(llvm::divideCeil(rows, ofBlock)) * tiles};
    };
    Value rows = roundedRows(x, shape.hidden);
    Value h = program.alloc(slots * roundedColumns(shape.intermediate) * sizeof(uint16_t));
    program.dispatch(
        "experts_gate_up_prompt",
        {{"features", shape.hidden},
         {"intermediate", shape.intermediate},
         {"num_experts", shape.numExperts},
         {"top_k", shape.topK},
         {"formats", formats.up},
         {"max_tokens", maxTokens()},
         tile,
         threads},
        grid(shape.intermediate, threads.integer / 2),
        {read(rows), read(table), read(grouped.expertBegin), read(grouped.slotToken), write(h)});
    Value z = program.activation(shape.topK * shape.hidden);
    program.dispatch("experts_down_prompt",
                     {{"features", shape.hidden},
                      {"intermediate", shape.intermediate},
                      {"num_experts", shape.numExperts},
                      {"top_k", shape.topK},
                      {"formats", formats.down},
                      {"max_tokens", maxTokens()},
                      tile,
                      threads},
                     grid(shape.hidden, threads.integer),
                     {read(h), read(table), read(grouped.expertBegin), write(z)});
    program.dispatch("combine_experts",
                     {{"features", shape.hidden},
                      {"num_experts", shape.numExperts},
                      {"accumulate", int64_t(result.access == plan::Access::ReadWrite)},
                      kThreads},
                     program.tokenGrid(),
                     {read(z), read(grouped.expertBegin), read(grouped.slotToken),
                      read(grouped.slotWeight), result});
  }

  /// What is done about experts of a layer that are not on the device.
  moe::MissStrategy missesOf(moe::ExpertsOp op) const {
    const auto miss = function->getAttrOfType<moe::MissAttr>(moe::kMissAttrName);
    const bool hasAny =
        llvm::any_of(op.getExperts().getAsRange<moe::ExpertAttr>(), [](moe::ExpertAttr expert) {
          return expert.getPlacement().getResidency() == moe::Residency::Host;
        });
    return miss && hasAny ? miss.getStrategy() : moe::MissStrategy::None;
  }
  /// Whether they are copied there first.
  bool fetches(moe::ExpertsOp op) const {
    return missesOf(op) == moe::MissStrategy::Stream || missesOf(op) == moe::MissStrategy::Cached;
  }
  /// Whether the host computes them. Not for prompts, which give every expert many tokens: the link
  /// carries its weights in less time than a CPU takes for the products.
  bool computesOnHost(moe::ExpertsOp op) const {
    return missesOf(op) == moe::MissStrategy::HostCompute && !isPrompt();
  }

  /// What the host makes of a layer's experts that it keeps.
  struct HostExperts {
    Groups others; ///< the slots that are left to the device
    Value sums;    ///< float32 [max_tokens, hidden], pinned; of tokens with an expert on the host
  };
  HostExperts hostExperts(moe::ExpertsOp op, const ExpertsShape &shape,
                          const ExpertFormats &formats, const Source &x, const Groups &grouped,
                          Value table) {
    const Groups others = allocateGroups(program, shape.numExperts, shape.topK),
                 own = allocateGroups(host, shape.numExperts, shape.topK);
    Value rows = host.activation(shape.hidden), sums = host.activation(shape.hidden);
    program.dispatch("experts_to_host",
                     {{"features", shape.hidden},
                      {"num_experts", shape.numExperts},
                      {"top_k", shape.topK},
                      {"normalize", x.normalize()},
                      {"epsilon", x.epsilon},
                      kThreads},
                     program.tokenGrid(),
                     {read(x.rows), read(x.scaleOrRows()), read(table),
                      read(buffers.lookup(op.getIds())), read(grouped.expertBegin),
                      read(grouped.slotToken), read(grouped.slotWeight), write(rows),
                      write(others.expertBegin), write(others.slotToken), write(others.slotWeight),
                      write(own.expertBegin), write(own.slotToken), write(own.slotWeight)});
    OperandRows operand{Value(), moeplan_forms_of(formats.up)};
    operand.rows = host.alloc(maxTokens() * moeplan_operand_bytes(operand.forms, shape.hidden));
    host.dispatch("operand",
                  {{"features", shape.hidden},
                   {"normalize", int64_t(0)},
                   {"epsilon", 0.0},
                   {"forms", operand.forms},
                   {"logits_rows", int64_t(0)}},
                  host.tokenGrid(), {read(rows), read(rows), write(operand.rows)});
    dispatchCpuExperts(host, shape, formats, operand,
                       host.resource(plan::ResourceKind::Experts, op.getLayer()), own, write(sums));
    return {others, sums};
  }

  void convert(moe::ExpertsOp op) {
    const ExpertsShape shape = shapeOf(op);
    const ExpertFormats formats = formatsOf(op);
    Groups grouped = groups.lookup(op.getIds());
    const Source x = source(op.getX());
    Value table = program.resource(plan::ResourceKind::Experts, op.getLayer());
    if (fetches(op))
      program.dispatch(
          "fetch_experts",
          {{"features", shape.hidden},
           {"intermediate", shape.intermediate},
           {"num_experts", shape.numExperts},
           {"formats", formats.up | formats.down},
           kThreads},
          {kFetchBlocks},
          {readWrite(table), read(grouped.expertBegin),
           readWrite(program.resource(plan::ResourceKind::ExpertSlots, op.getLayer()))});
    Value fromHost;
    if (computesOnHost(op)) {
      const HostExperts there = hostExperts(op, shape, formats, x, grouped, table);
      grouped = there.others;
      fromHost = there.sums;
    }
    Value out = resultBuffer(op, op.getResidual(), op.getResult());
    const Operand result = op.getResidual() ? readWrite(out) : write(out);
    if (isPrompt())
      promptExperts(shape, formats, x, grouped, table, result);
    else
      decodeExperts(shape, formats, x, grouped, table, result);
    if (fromHost)
      program.dispatch(
          "experts_from_host", {{"features", shape.hidden}, {"top_k", shape.topK}, kThreads},
          program.tokenGrid(),
          {read(table), read(buffers.lookup(op.getIds())), read(fromHost), readWrite(out)});
    buffers[op.getResult()] = out;
  }

  void convert(moe::LogitsOp op) {
    const int64_t vocab = features(op.getResult()), width = features(op.getX());
    Value logits =
        program.resource(plan::ResourceKind::Logits, 0, maxTokens() * vocab * sizeof(float));
    linear(source(op.getX()), op.getWeightAttr(), logits,
           {width, vocab, /*accumulate=*/false, /*wantedOnly=*/true});
    Value found = program.resource(plan::ResourceKind::Candidates, 0,
                                   MOEPLAN_CANDIDATES * sizeof(moeplan_candidate));
    program.dispatch(
        "candidates",
        {{"vocab_size", vocab}, {"count", int64_t(MOEPLAN_CANDIDATES)}, {"threads", int64_t(1024)}},
        {1}, {read(logits), write(found)});
  }

  ProgramBuilder host; ///< for what it does beside the device
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
      if (attention.getHeadDim() % kBlockRows != 0 || attention.getHeadDim() > kMostHeadDim)
        reason = "the CUDA kernels need a head_dim that is a multiple of " +
                 std::to_string(kBlockRows) + " and at most " + std::to_string(kMostHeadDim) +
                 ", the model has " + std::to_string(attention.getHeadDim());
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
