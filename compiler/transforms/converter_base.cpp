#include "compiler/transforms/converter_base.h"

#include "cpu/operand.h"

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Rows that the CPU's experts_gate_up makes operands of at a time.
constexpr int64_t kGateUpRowMultiple = 128;

SmallVector<KernelConstant> with(std::initializer_list<KernelConstant> constants,
                                 ArrayRef<KernelConstant> launch) {
  SmallVector<KernelConstant> all(constants);
  llvm::append_range(all, launch);
  return all;
}

} // namespace

ConverterBase::ConverterBase(ModuleBuilder &module, plan::ProgramOp op, func::FuncOp function,
                             int64_t alsoFormats, const KernelTuning &tuning)
    : module(module), program(module, op, tuning), programOp(op), function(function),
      alsoFormats(alsoFormats) {
  if (auto format = function->getAttrOfType<StringAttr>(moe::kNonExpertFormatAttrName))
    matrixFormat = format.getValue();
}

plan::SegmentOp ConverterBase::segment(FlatSymbolRefAttr symbol, StringRef formatName) {
  auto weight = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, symbol);
  return module.segment(weight.getSymName(), weight.getSource(), weight.getTensorType().getShape(),
                        formatName);
}

Value ConverterBase::weight(FlatSymbolRefAttr symbol, StringRef formatName) {
  plan::SegmentOp op = segment(symbol, formatName);
  weightBytesPerToken += op.getBytes();
  return program.weight(op);
}

ConverterBase::Source ConverterBase::source(Value value) {
  if (auto norm = value.getDefiningOp<moe::RmsNormOp>())
    return {buffers.lookup(norm.getX()), norms.lookup(value), norm.getEpsilon().convertToDouble()};
  return {buffers.lookup(value), Value(), 0};
}

Value ConverterBase::rowsOf(Value value) {
  Value &rows = buffers[value];
  if (!rows) {
    const Source from = source(value);
    rows = program.activation(features(value));
    normalize(from, value, rows);
  }
  return rows;
}

Value ConverterBase::resultBuffer(Operation *op, Value residual, Value result) {
  if (!residual)
    return program.activation(features(result));
  bool lastUse = llvm::all_of(residual.getUsers(), [&](Operation *user) {
    return user == op || user->isBeforeInBlock(op);
  });
  if (lastUse)
    return rowsOf(residual);
  Value copy = program.activation(features(result));
  program.copy(rowsOf(residual), copy, program.maxTokens() * features(result) * 4);
  return copy;
}

ConverterBase::Groups ConverterBase::allocateGroups(ProgramBuilder &on, int64_t numExperts,
                                                    int64_t topK) {
  int64_t slots = on.maxTokens() * topK;
  return {on.alloc((numExperts + 1) * sizeof(uint32_t)), on.alloc(slots * sizeof(uint32_t)),
          on.alloc(slots * sizeof(float))};
}

ConverterBase::ExpertsShape ConverterBase::shapeOf(moe::ExpertsOp op) {
  ExpertsShape shape{};
  shape.hidden = features(op.getX());
  shape.topK = features(op.getIds());
  shape.numExperts = op.getExperts().size();
  auto first = cast<moe::ExpertAttr>(op.getExperts()[0]);
  shape.intermediate = SymbolTable::lookupNearestSymbolFrom<moe::WeightOp>(function, first.getW1())
                           .getTensorType()
                           .getDimSize(0);
  int64_t expertBytes = 0;
  for (auto expert : op.getExperts().getAsRange<moe::ExpertAttr>()) {
    moe::PlacementAttr placement = expert.getPlacement();
    for (StringAttr name : {placement.getW1(), placement.getW3()}) {
      const FormatInfo &up = format(name.getValue());
      shape.widestUp = std::max<int64_t>(shape.widestUp, formatRowBytes(up, shape.hidden));
      expertBytes += *formatBytes(up, shape.intermediate, shape.hidden);
    }
    const FormatInfo &down = format(placement.getW2().getValue());
    shape.widestDown =
        std::max<int64_t>(shape.widestDown, formatRowBytes(down, shape.intermediate));
    expertBytes += *formatBytes(down, shape.hidden, shape.intermediate);
  }
  weightBytesPerToken += expertBytes * shape.topK / shape.numExperts;
  return shape;
}

ConverterBase::ExpertFormats ConverterBase::formatsOf(moe::ExpertsOp op) const {
  ExpertFormats formats{alsoFormats, alsoFormats};
  for (auto expert : op.getExperts().getAsRange<moe::ExpertAttr>()) {
    moe::PlacementAttr placement = expert.getPlacement();
    formats.up |= int64_t(1) << format(placement.getW1().getValue()).id |
                  int64_t(1) << format(placement.getW3().getValue()).id;
    formats.down |= int64_t(1) << format(placement.getW2().getValue()).id;
  }
  return formats;
}

void ConverterBase::dispatchCpuExperts(ProgramBuilder &on, const ExpertsShape &shape,
                                       const ExpertFormats &formats, const OperandRows &x,
                                       Value table, const Groups &grouped, const Operand &result) {
  const int64_t hForms = moeplan_forms_of(formats.down);
  const int64_t oneToken = on.maxTokens() == 1;
  Value h =
      on.alloc(on.maxTokens() * shape.topK * moeplan_operand_bytes(hForms, shape.intermediate));
  int64_t rows = on.rowsPerTile(shape.intermediate, shape.widestUp, kGateUpRowMultiple);
  on.dispatch(
      "experts_gate_up",
      {{"features", shape.hidden},
       {"intermediate", shape.intermediate},
       {"num_experts", shape.numExperts},
       {"formats", formats.up},
       {"x_forms", x.forms},
       {"h_forms", hForms},
       {"rows_per_tile", rows},
       {"max_tokens", oneToken},
       {"prefetch", on.tuning().ofSet(formats.up).prefetchBytes},
       {"unroll", on.tuning().ofSet(formats.up).unroll}},
      on.rowGrid(shape.intermediate, rows),
      {read(x.rows), read(table), read(grouped.expertBegin), read(grouped.slotToken), write(h)});
  rows = on.rowsPerTile(shape.hidden, shape.widestDown);
  on.dispatch("experts_down",
              {{"features", shape.hidden},
               {"intermediate", shape.intermediate},
               {"num_experts", shape.numExperts},
               {"formats", formats.down},
               {"h_forms", hForms},
               {"rows_per_tile", rows},
               {"accumulate", int64_t(plan::reads(result.access))},
               {"max_tokens", oneToken},
               {"prefetch", on.tuning().ofSet(formats.down).prefetchBytes},
               {"unroll", on.tuning().ofSet(formats.down).unroll}},
              on.rowGrid(shape.hidden, rows),
              {read(h), read(table), read(grouped.expertBegin), read(grouped.slotToken),
               read(grouped.slotWeight), result});
}

void ConverterBase::convert(moe::RmsNormOp op) {
  rowsOf(op.getX());
  norms[op.getResult()] = weight(op.getWeightAttr(), kVectorFormat);
}

void ConverterBase::convertEmbedding(moe::EmbeddingOp op, ArrayRef<KernelConstant> launch) {
  plan::SegmentOp table = segment(op.getTableAttr(), matrixFormat);
  int64_t width = features(op.getResult());
  weightBytesPerToken += formatRowBytes(format(matrixFormat), width);
  Value tokens =
      program.resource(plan::ResourceKind::Tokens, 0, program.maxTokens() * sizeof(int32_t));
  Value out = buffers[op.getResult()] = program.activation(width);
  program.dispatch("embedding",
                   with({{"features", width},
                         {"vocab_size", table.getShape()[0]},
                         {"weight_format", int64_t(format(matrixFormat).id)}},
                        launch),
                   program.tokenGrid(), {read(tokens), read(program.weight(table)), write(out)});
}

void ConverterBase::convertAdd(moe::AddOp op, ArrayRef<KernelConstant> launch) {
  Value out = buffers[op.getResult()] = program.activation(features(op.getResult()));
  program.dispatch("add", with({{"features", features(op.getResult())}}, launch),
                   program.tokenGrid(),
                   {read(rowsOf(op.getX())), read(rowsOf(op.getY())), write(out)});
}
