#include "dialects/moe/MoeDialect.h"

#include "formats.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/GlobPattern.h"

using namespace mlir;
using namespace moeplan;
using namespace moeplan::moe;

#include "dialects/moe/MoeDialect.cpp.inc"
#include "dialects/moe/MoeEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/moe/MoeAttrs.cpp.inc"

/// `custom<SameType>`: the result has the type of an operand and is not printed.
static ParseResult parseSameType(OpAsmParser &, Type operand, Type &result) {
  result = operand;
  return success();
}
static void printSameType(OpAsmPrinter &, Operation *, Type, Type) {}

#define GET_OP_CLASSES
#include "dialects/moe/MoeOps.cpp.inc"

void MoeDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/moe/MoeAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/moe/MoeOps.cpp.inc"
      >();
}

//===--- attributes -------------------------------------------------------------------------===//

static LogicalResult verifyFormat(function_ref<InFlightDiagnostic()> emitError, StringAttr format) {
  if (findFormat(std::string_view(format.getValue())))
    return success();
  return emitError() << "unknown format '" << format.getValue() << "', known are "
                     << knownFormats();
}

LogicalResult PlacementAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringAttr w1,
                                    StringAttr w3, StringAttr w2, Residency) {
  for (StringAttr format : {w1, w3, w2})
    if (failed(verifyFormat(emitError, format)))
      return failure();
  return success();
}

LogicalResult RuleAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringAttr pattern,
                               StringAttr format, StringAttr residency) {
  if (auto glob = llvm::GlobPattern::create(pattern.getValue()); !glob)
    return emitError() << "bad pattern '" << pattern.getValue()
                       << "': " << llvm::toString(glob.takeError());
  if (residency && !symbolizeResidency(residency.getValue()))
    return emitError() << "unknown residency '" << residency.getValue()
                       << "', known are 'host' 'device'";
  return format ? verifyFormat(emitError, format) : success();
}

LogicalResult MissAttr::verify(function_ref<InFlightDiagnostic()> emitError, MissStrategy strategy,
                               int64_t cacheSlots) {
  if (cacheSlots < 0 || (strategy == MissStrategy::Cached) != (cacheSlots > 0))
    return emitError() << "cache_slots must be positive for 'cached' and 0 for any other strategy";
  return success();
}

LogicalResult TierOp::verify() {
  if (bool(getRulesAttr()) == bool(getPlacementsAttr()))
    return emitOpError("needs either rules or the placement of every expert");
  StringAttr format = getNonExpertFormatAttr();
  return format ? verifyFormat([&] { return emitOpError("non_experts: "); }, format) : success();
}

//===--- weights ----------------------------------------------------------------------------===//

LogicalResult WeightOp::verify() {
  int64_t rank = getTensorType().getRank();
  if (!getTensorType().hasStaticShape() || rank < 1 || rank > 2)
    return emitOpError("must be a vector or a matrix with a static shape, got ") << getType();
  return success();
}

/// Checks that `symbol` is a weight of shape `shape`.
static LogicalResult verifyWeight(Operation *op, SymbolTableCollection &symbols,
                                  FlatSymbolRefAttr symbol, ArrayRef<int64_t> shape) {
  auto weight = symbols.lookupNearestSymbolFrom<WeightOp>(op, symbol);
  if (!weight)
    return op->emitOpError() << symbol << " is not a moe.weight";
  if (weight.getTensorType().getShape() != shape)
    return op->emitOpError() << "weight " << symbol << " has shape ["
                             << weight.getTensorType().getShape() << "], expected [" << shape
                             << "]";
  return success();
}

static int64_t features(Value activation) {
  return cast<RankedTensorType>(activation.getType()).getDimSize(1);
}

LogicalResult EmbeddingOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto table = symbols.lookupNearestSymbolFrom<WeightOp>(*this, getTableAttr());
  if (!table)
    return emitOpError() << getTableAttr() << " is not a moe.weight";
  int64_t rows = table.getTensorType().getDimSize(0);
  return verifyWeight(*this, symbols, getTableAttr(), {rows, features(getResult())});
}

LogicalResult RmsNormOp::verifySymbolUses(SymbolTableCollection &symbols) {
  return verifyWeight(*this, symbols, getWeightAttr(), {features(getX())});
}

LogicalResult LogitsOp::verifySymbolUses(SymbolTableCollection &symbols) {
  return verifyWeight(*this, symbols, getWeightAttr(), {features(getResult()), features(getX())});
}

//===--- attention --------------------------------------------------------------------------===//

LogicalResult AttentionOp::verify() {
  if (getNumHeads() % getNumKvHeads() != 0)
    return emitOpError() << getNumHeads() << " heads cannot share " << getNumKvHeads()
                         << " key/value heads evenly";
  if (getHeadDim() % 2 != 0)
    return emitOpError() << "rotary positions need an even head_dim, got " << getHeadDim();
  if (getResidual() && getResidual().getType() != getX().getType())
    return emitOpError("residual must have the type of x");
  return success();
}

LogicalResult AttentionOp::verifySymbolUses(SymbolTableCollection &symbols) {
  int64_t hidden = features(getX());
  int64_t queryRows = getNumHeads() * getHeadDim(), keyRows = getNumKvHeads() * getHeadDim();
  return success(succeeded(verifyWeight(*this, symbols, getQAttr(), {queryRows, hidden})) &&
                 succeeded(verifyWeight(*this, symbols, getKAttr(), {keyRows, hidden})) &&
                 succeeded(verifyWeight(*this, symbols, getVAttr(), {keyRows, hidden})) &&
                 succeeded(verifyWeight(*this, symbols, getOAttr(), {hidden, queryRows})));
}

//===--- routing and experts ----------------------------------------------------------------===//

LogicalResult RouterOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto gate = symbols.lookupNearestSymbolFrom<WeightOp>(*this, getGateAttr());
  if (!gate)
    return emitOpError() << getGateAttr() << " is not a moe.weight";
  int64_t numExperts = gate.getTensorType().getDimSize(0);
  if (features(getIds()) > numExperts || features(getIds()) != features(getWeights()))
    return emitOpError() << "cannot pick " << features(getIds()) << " of " << numExperts
                         << " experts with " << features(getWeights()) << " weights";
  return verifyWeight(*this, symbols, getGateAttr(), {numExperts, features(getX())});
}

LogicalResult ExpertsOp::verify() {
  if (getExperts().empty())
    return emitOpError("needs at least one expert");
  if (getResidual() && getResidual().getType() != getX().getType())
    return emitOpError("residual must have the type of x");
  if (features(getIds()) != features(getWeights()))
    return emitOpError() << "has " << features(getIds()) << " experts per token but "
                         << features(getWeights()) << " weights";
  bool placed = bool(cast<ExpertAttr>(getExperts()[0]).getPlacement());
  for (auto [index, expert] : llvm::enumerate(getExperts().getAsRange<ExpertAttr>()))
    if (bool(expert.getPlacement()) != placed)
      return emitOpError() << "either all experts have a placement or none; expert " << index
                           << " differs from expert 0";
  return success();
}

LogicalResult ExpertsOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto first =
      symbols.lookupNearestSymbolFrom<WeightOp>(*this, cast<ExpertAttr>(getExperts()[0]).getW1());
  if (!first)
    return emitOpError() << cast<ExpertAttr>(getExperts()[0]).getW1() << " is not a moe.weight";
  int64_t hidden = features(getX()), intermediate = first.getTensorType().getDimSize(0);
  for (auto expert : getExperts().getAsRange<ExpertAttr>())
    if (failed(verifyWeight(*this, symbols, expert.getW1(), {intermediate, hidden})) ||
        failed(verifyWeight(*this, symbols, expert.getW3(), {intermediate, hidden})) ||
        failed(verifyWeight(*this, symbols, expert.getW2(), {hidden, intermediate})))
      return failure();
  return success();
}
