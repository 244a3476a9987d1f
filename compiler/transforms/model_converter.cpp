#include "compiler/transforms/model_converter.h"

#include "compiler/transforms/converter_base.h"
#include "cpu/operand.h"

#include "llvm/ADT/DenseSet.h"

#include <cmath>

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Query vectors that attention takes through the KV cache together: as many as stay in the second
/// cache with their scores and sums.
constexpr int64_t kQueriesPerTile = 64;

/// Whether every row of an activation is needed, or only those whose logits are wanted: for a
/// prompt, what follows the last layer's keys and values matters for its last token alone.
llvm::DenseSet<Value> valuesNeededWhole(func::FuncOp function) {
  llvm::DenseSet<Value> whole;
  for (Operation &op : llvm::reverse(function.front().without_terminator())) {
    auto attention = dyn_cast<moe::AttentionOp>(op);
    if (attention)
      whole.insert(attention.getX());
    if (!llvm::any_of(op.getResults(), [&](Value result) { return whole.contains(result); }))
      continue;
    whole.insert(op.operand_begin(), op.operand_end());
  }
  return whole;
}

/// Expands one placed function into one program.
class ModelConverter : public ConverterBase {
public:
  ModelConverter(ModuleBuilder &module, plan::ProgramOp op, func::FuncOp function,
                 const KvFormatInfo &kvFormat, int64_t alsoFormats, const KernelTuning &tuning)
      : ConverterBase(module, op, function, alsoFormats, tuning), kvFormat(kvFormat),
        neededWhole(valuesNeededWhole(function)) {}

  void run() { convertAll(*this); }

private:
  friend ConverterBase;
  bool singleToken() const { return program.maxTokens() == 1; }
  /// The `logits_rows` of whatever computes `value`.
  int64_t logitsRows(Value value) const { return neededWhole.contains(value) ? 0 : 1; }

  void normalize(const Source &from, Value norm, Value rows) override {
    program.dispatch("rms_norm",
                     {{"features", features(norm)},
                      {"epsilon", from.epsilon},
                      {"logits_rows", logitsRows(norm)}},
                     program.tokenGrid(), {read(from.rows), read(from.scale), write(rows)});
  }

  OperandRows makeOperand(const Source &from, int64_t width, int64_t forms, int64_t logits) {
    Value rows = program.alloc(program.maxTokens() * moeplan_operand_bytes(forms, width));
    program.dispatch("operand",
                     {{"features", width},
                      {"normalize", from.normalize()},
                      {"epsilon", from.epsilon},
                      {"forms", forms},
                      {"logits_rows", logits}},
                     program.tokenGrid(), {read(from.rows), read(from.scaleOrRows()), write(rows)});
    return {rows, forms};
  }

  /// `value` as an operand with at least `forms`.
  OperandRows operandOf(Value value, int64_t forms) {
    OperandRows &rows = operands[value];
    if ((rows.forms & forms) != forms)
      rows = makeOperand(source(value), features(value), forms, logitsRows(value));
    return rows;
  }

  /// y (+)= w x for the rows of one token.
  void vectorLinear(const Source &x, FlatSymbolRefAttr symbol, Value y, int64_t in, int64_t out,
                    bool accumulate, int64_t logits) {
    const FormatInfo &f = format(matrixFormat);
    int64_t rows = program.rowsPerTile(out, formatRowBytes(f, in));
    Value w = weight(symbol, matrixFormat);
    program.dispatch(
        "vector_linear",
        {{"in_features", in},
         {"out_features", out},
         {"normalize", x.normalize()},
         {"epsilon", x.epsilon},
         {"weight_format", int64_t(f.id)},
         {"rows_per_tile", rows},
         {"accumulate", int64_t(accumulate)},
         {"logits_rows", logits},
         {"prefetch", program.tuning().of(f.id).prefetchBytes},
         {"unroll", program.tuning().of(f.id).unroll}},
        program.rowGrid(out, rows),
        {read(x.rows), read(x.scaleOrRows()), read(w), accumulate ? readWrite(y) : write(y)});
  }

  void linear(OperandRows x, FlatSymbolRefAttr symbol, Value y, int64_t in, int64_t out,
              bool accumulate, int64_t logits) {
    const FormatInfo &f = format(matrixFormat);
    int64_t rows = program.rowsPerTile(out, formatRowBytes(f, in));
    Value w = weight(symbol, matrixFormat);
    program.dispatch("linear",
                     {{"in_features", in},
                      {"out_features", out},
                      {"weight_format", int64_t(f.id)},
                      {"x_forms", x.forms},
                      {"rows_per_tile", rows},
                      {"accumulate", int64_t(accumulate)},
                      {"logits_rows", logits},
                      {"prefetch", program.tuning().of(f.id).prefetchBytes},
                      {"unroll", program.tuning().of(f.id).unroll}},
                     program.rowGrid(out, rows),
                     {read(x.rows), read(w), accumulate ? readWrite(y) : write(y)});
  }

  int64_t matrixForm() const { return moeplan_form_of(format(matrixFormat).id); }

  using ConverterBase::convert;

  void convert(moe::EmbeddingOp op) { convertEmbedding(op, {}); }

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
    int64_t window = op.getSlidingWindow(), logits = logitsRows(op.getResult());
    Value rope = ropeTable(dim, op.getRopeTheta().convertToDouble());
    Value q = program.activation(heads * dim), k = program.activation(kvHeads * dim),
          v = program.activation(kvHeads * dim);
    Value attended = program.activation(heads * dim);
    Value keys = program.resource(plan::ResourceKind::Keys, layer);
    Value values = program.resource(plan::ResourceKind::Values, layer);
    if (singleToken()) {
      const FormatInfo &f = format(matrixFormat);
      const Source x = source(op.getX());
      int64_t rows = program.rowsPerTile((heads + 2 * kvHeads) * dim, formatRowBytes(f, hidden));
      auto tiles = [&](int64_t features) { return (features + rows - 1) / rows; };
      Value wq = weight(op.getQAttr(), matrixFormat), wk = weight(op.getKAttr(), matrixFormat),
            wv = weight(op.getVAttr(), matrixFormat);
      program.dispatch("vector_qkv",
                       {{"in_features", hidden},
                        {"q_features", heads * dim},
                        {"kv_features", kvHeads * dim},
                        {"normalize", x.normalize()},
                        {"epsilon", x.epsilon},
                        {"weight_format", int64_t(f.id)},
                        {"rows_per_tile", rows},
                        {"prefetch", program.tuning().of(f.id).prefetchBytes},
                        {"unroll", program.tuning().of(f.id).unroll}},
                       {tiles(heads * dim) + 2 * tiles(kvHeads * dim)},
                       {read(x.rows), read(x.scaleOrRows()), read(wq), read(wk), read(wv), write(q),
                        write(k), write(v)});
      program.dispatch("vector_attention",
                       {{"num_heads", heads},
                        {"num_kv_heads", kvHeads},
                        {"head_dim", dim},
                        {"kv_format", int64_t(kvFormat.id)},
                        {"sliding_window", window},
                        {"logits_rows", logits}},
                       {kvHeads},
                       {read(q), read(k), read(v), read(rope), readWrite(keys), readWrite(values),
                        write(attended)});
    } else {
      const OperandRows x = operandOf(op.getX(), matrixForm());
      linear(x, op.getQAttr(), q, hidden, heads * dim, false, logits);
      linear(x, op.getKAttr(), k, hidden, kvHeads * dim, false, 0);
      linear(x, op.getVAttr(), v, hidden, kvHeads * dim, false, 0);
      program.dispatch("rope_append",
                       {{"num_heads", heads},
                        {"num_kv_heads", kvHeads},
                        {"head_dim", dim},
                        {"kv_format", int64_t(kvFormat.id)}},
                       program.tokenGrid(),
                       {readWrite(q), read(k), read(v), read(rope), write(keys), write(values)});
      int64_t tokens = std::max<int64_t>(1, kQueriesPerTile / (heads / kvHeads));
      program.dispatch("attention",
                       {{"num_heads", heads},
                        {"num_kv_heads", kvHeads},
                        {"head_dim", dim},
                        {"kv_format", int64_t(kvFormat.id)},
                        {"sliding_window", window},
                        {"tokens_per_tile", tokens},
                        {"logits_rows", logits}},
                       {(program.maxTokens() + tokens - 1) / tokens * kvHeads},
                       {read(q), read(keys), read(values), write(attended)});
    }

    Value out = resultBuffer(op, op.getResidual(), op.getResult());
    const Source from{attended, Value(), 0};
    if (singleToken())
      vectorLinear(from, op.getOAttr(), out, heads * dim, hidden, bool(op.getResidual()), logits);
    else
      linear(makeOperand(from, heads * dim, matrixForm(), logits), op.getOAttr(), out, heads * dim,
             hidden, bool(op.getResidual()), logits);
    buffers[op.getResult()] = out;
  }

  void convert(moe::RouterOp op) {
    auto gate = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, op.getGateAttr());
    int64_t numExperts = gate.getTensorType().getDimSize(0), topK = features(op.getIds());
    int64_t width = features(op.getX()), logits = logitsRows(op.getIds());
    Value w = weight(op.getGateAttr(), kVectorFormat);
    const Source x = source(op.getX());
    // The experts that follow read the same rows: made here, where they are at hand.
    int64_t forms = 0;
    for (Operation *user : op.getX().getUsers())
      if (auto experts = dyn_cast<moe::ExpertsOp>(user))
        forms |= moeplan_forms_of(formatsOf(experts).up);
    OperandRows rows{program.alloc(std::max<int64_t>(
                         program.maxTokens() * moeplan_operand_bytes(forms, width), 64)),
                     forms};
    if (forms)
      operands[op.getX()] = rows;
    SmallVector<KernelConstant> constants{{"features", width},    {"num_experts", numExperts},
                                          {"top_k", topK},        {"normalize", x.normalize()},
                                          {"epsilon", x.epsilon}, {"forms", forms},
                                          {"logits_rows", logits}};
    if (singleToken()) {
      const Groups made = groups[op.getIds()] = allocateGroups(program, numExperts, topK);
      program.dispatch("vector_router", constants, {1},
                       {read(x.rows), read(x.scaleOrRows()), read(w), write(made.expertBegin),
                        write(made.slotToken), write(made.slotWeight), write(rows.rows)});
      return;
    }
    Value ids = buffers[op.getIds()] = program.activation(topK);
    Value weights = buffers[op.getWeights()] = program.activation(topK);
    program.dispatch("router", constants, program.tokenGrid(),
                     {read(x.rows), read(x.scaleOrRows()), read(w), write(ids), write(weights),
                      write(rows.rows)});
  }

  void convert(moe::ExpertsOp op) {
    const ExpertsShape shape = shapeOf(op);
    Groups grouped = groups.lookup(op.getIds());
    if (!grouped.expertBegin) {
      grouped = allocateGroups(program, shape.numExperts, shape.topK);
      program.dispatch("group_by_expert",
                       {{"num_experts", shape.numExperts},
                        {"top_k", shape.topK},
                        {"logits_rows", logitsRows(op.getResult())}},
                       {1},
                       {read(buffers.lookup(op.getIds())), read(buffers.lookup(op.getWeights())),
                        write(grouped.expertBegin), write(grouped.slotToken),
                        write(grouped.slotWeight)});
    }
    const ExpertFormats formats = formatsOf(op);
    Value table = program.resource(plan::ResourceKind::Experts, op.getLayer());
    const OperandRows x = operandOf(op.getX(), moeplan_forms_of(formats.up));
    Value out = buffers[op.getResult()] = resultBuffer(op, op.getResidual(), op.getResult());
    dispatchCpuExperts(program, shape, formats, x, table, grouped,
                       op.getResidual() ? readWrite(out) : write(out));
  }

  void convert(moe::AddOp op) { convertAdd(op, {}); }

  void convert(moe::LogitsOp op) {
    int64_t vocab = features(op.getResult()), width = features(op.getX());
    Value logits = program.resource(plan::ResourceKind::Logits, 0,
                                    program.maxTokens() * vocab * sizeof(float));
    if (singleToken())
      vectorLinear(source(op.getX()), op.getWeightAttr(), logits, width, vocab, false,
                   /*logits=*/1);
    else
      linear(operandOf(op.getX(), matrixForm()), op.getWeightAttr(), logits, width, vocab, false,
             /*logits=*/1);
  }

  const KvFormatInfo &kvFormat;
  llvm::DenseSet<Value> neededWhole;
  llvm::DenseMap<Value, OperandRows> operands;
  llvm::DenseMap<std::pair<int64_t, int64_t>, Value> ropeTables;
};

} // namespace

void moeplan::compiler::convertModel(ModuleBuilder &module, plan::ProgramOp program,
                                     func::FuncOp function, const KvFormatInfo &kvFormat,
                                     int64_t alsoFormats, const KernelTuning &tuning) {
  ModelConverter(module, program, function, kvFormat, alsoFormats, tuning).run();
}
