#include "dialects/plan/PlanDialect.h"

#include "formats.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

#include <limits>

using namespace mlir;
using namespace moeplan;
using namespace moeplan::plan;

#include "dialects/plan/PlanDialect.cpp.inc"
#include "dialects/plan/PlanEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/plan/PlanAttrs.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/plan/PlanTypes.cpp.inc"

/// `custom<Operands>`: each operand behind what is done with it, `read %a, write %b`.
static ParseResult parseOperands(OpAsmParser &parser,
                                 SmallVectorImpl<OpAsmParser::UnresolvedOperand> &operands,
                                 ArrayAttr &accesses) {
  SmallVector<Attribute> attrs;
  auto parseOne = [&]() -> ParseResult {
    StringRef keyword;
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseKeyword(&keyword))
      return failure();
    std::optional<Access> access = symbolizeAccess(keyword);
    if (!access)
      return parser.emitError(loc, "expected 'read', 'write' or 'read_write'");
    attrs.push_back(AccessAttr::get(parser.getContext(), *access));
    return parser.parseOperand(operands.emplace_back());
  };
  if (parser.parseCommaSeparatedList(parseOne))
    return failure();
  accesses = parser.getBuilder().getArrayAttr(attrs);
  return success();
}

static void printOperands(OpAsmPrinter &printer, Operation *, OperandRange operands,
                          ArrayAttr accesses) {
  llvm::interleaveComma(llvm::zip_equal(operands, accesses.getAsRange<AccessAttr>()), printer,
                        [&](auto pair) {
                          auto [operand, access] = pair;
                          printer << stringifyAccess(access.getValue()) << ' ' << operand;
                        });
}

#define GET_OP_CLASSES
#include "dialects/plan/PlanOps.cpp.inc"

void PlanDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/plan/PlanAttrs.cpp.inc"
      >();
  addTypes<
#define GET_TYPEDEF_LIST
#include "dialects/plan/PlanTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/plan/PlanOps.cpp.inc"
      >();
}

bool plan::isWritable(Value buffer) {
  Operation *op = buffer.getDefiningOp();
  if (auto resource = dyn_cast<ResourceOp>(op))
    switch (resource.getKind()) {
    case ResourceKind::Keys:
    case ResourceKind::Values:
    case ResourceKind::Logits:
    case ResourceKind::Candidates:
    case ResourceKind::ExpertSlots:
      return true;
    case ResourceKind::Experts: // a device fetches experts by itself
      return resource.getBuffer().getType().getMemory() == Memory::Device;
    default:
      return false;
    }
  return isa<AllocOp>(op);
}

bool plan::isHostWork(const SymbolTable &symbols, DispatchOp dispatch) {
  return dispatch->getParentOfType<ProgramOp>().getMemory() == Memory::Device &&
         symbols.lookup<KernelOp>(dispatch.getKernel()).getMachine() == Machine::Cpu;
}

int64_t plan::accessibleBytes(Value buffer) {
  return llvm::TypeSwitch<Operation *, int64_t>(buffer.getDefiningOp())
      .Case<AllocOp>([](AllocOp op) { return op.getBytes(); })
      .Case<ResourceOp>([](ResourceOp op) { return op.getBytes(); })
      .Case<plan::WeightOp>([](plan::WeightOp op) {
        // Segments are the module's; the nearest symbol table is the plan's own.
        auto segment = dyn_cast_or_null<SegmentOp>(
            SymbolTable::lookupSymbolIn(op->getParentOfType<ModuleOp>(), op.getSegmentAttr()));
        return segment ? segment.getBytes() : 0;
      })
      .Default(int64_t(0));
}

LogicalResult MissAttr::verify(function_ref<InFlightDiagnostic()> emitError, MissStrategy strategy,
                               int64_t cacheSlots) {
  if (cacheSlots < 0 || (strategy == MissStrategy::Cached) != (cacheSlots > 0))
    return emitError() << "cache_slots must be positive for 'cached' and 0 for any other strategy";
  return success();
}

//===--- module level -----------------------------------------------------------------------===//

LogicalResult SegmentOp::verify() {
  const FormatInfo *format = findFormat(std::string_view(getFormat()));
  if (!format)
    return emitOpError() << "unknown format '" << getFormat() << "'";
  if (getShape().empty() || getShape().size() > 2 ||
      llvm::any_of(getShape(), [](int64_t extent) { return extent <= 0; }))
    return emitOpError("needs one or two positive extents");
  if (format->isPacked() && getShape().size() != 2)
    return emitOpError() << "a vector cannot be of format '" << getFormat() << "'";
  auto bytes = formatBytes(*format, getShape().size() == 2 ? getShape()[0] : 1, getShape().back());
  if (!bytes || *bytes > uint64_t(std::numeric_limits<int64_t>::max()))
    return emitOpError("has more bytes than 64 bits count");
  return success();
}

int64_t SegmentOp::getBytes() {
  ArrayRef<int64_t> shape = getShape();
  int64_t rows = shape.size() == 2 ? shape[0] : 1;
  return *formatBytes(*findFormat(std::string_view(getFormat())), rows, shape.back());
}

LogicalResult KernelOp::verify() {
  for (NamedAttribute constant : getConstants())
    if (!isa<IntegerAttr, FloatAttr>(constant.getValue()))
      return emitOpError() << "constant '" << constant.getName().getValue()
                           << "' must be an integer or a float";
  return success();
}

/// That there are misses to cope with, and that no layer has more slots than experts.
static LogicalResult verifyMiss(PlanOp plan) {
  MissAttr miss = plan.getMissAttr();
  if (!miss || miss.getStrategy() == MissStrategy::None)
    return success();
  bool hasHostExperts = false;
  for (auto table : plan.getOps<ExpertTableOp>()) {
    if (miss.getCacheSlots() > int64_t(table.getExperts().size()))
      return table.emitOpError() << "has " << table.getExperts().size()
                                 << " experts, fewer than the " << miss.getCacheSlots()
                                 << " cache slots of the plan";
    hasHostExperts |= llvm::any_of(table.getExperts().getAsRange<ExpertAttr>(), [](auto expert) {
      return expert.getResidency() == Memory::Host;
    });
  }
  if (!hasHostExperts)
    return plan.emitOpError() << "has a strategy for misses, '"
                              << stringifyMissStrategy(miss.getStrategy())
                              << "', but no expert in host memory";
  return success();
}

LogicalResult PlanOp::verifyRegions() {
  if (failed(verifyMiss(*this)))
    return failure();
  int64_t previous = 0;
  Memory memory = Memory::Host;
  for (Operation &op : getBody().front()) {
    if (auto program = dyn_cast<ProgramOp>(op)) {
      if (program.getMemory() < memory)
        return program.emitOpError("programs in device memory must come last");
      if (program.getMemory() != memory)
        previous = 0;
      memory = program.getMemory();
      if (int64_t(program.getMaxTokens()) <= previous)
        return program.emitOpError("programs must come in ascending max_tokens");
      previous = program.getMaxTokens();
    } else if (!isa<ExpertTableOp>(op)) {
      return op.emitOpError("only expert tables and programs may stand in a plan");
    }
  }
  return success();
}

LogicalResult ExpertTableOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto module = (*this)->getParentOfType<ModuleOp>();
  for (auto expert : getExperts().getAsRange<ExpertAttr>()) {
    if (expert.getResidency() == Memory::Pinned)
      return emitOpError("an expert is kept by the host or by a device");
    for (FlatSymbolRefAttr segment : {expert.getW1(), expert.getW3(), expert.getW2()})
      if (!symbols.lookupSymbolIn<SegmentOp>(module, segment))
        return emitOpError() << segment << " is not a plan.segment";
  }
  return success();
}

LogicalResult ProgramOp::verifyRegions() {
  if (getMemory() == Memory::Pinned)
    return emitOpError("runs in host or in device memory");
  for (Operation &op : getBody().front()) {
    if (!isa<AllocOp, plan::WeightOp, ResourceOp, DispatchOp, CopyOp, BarrierOp, JoinOp>(op))
      return op.emitOpError("only buffers and commands may stand in a program");
    auto alloc = dyn_cast<AllocOp>(op);
    if (!alloc)
      continue;
    const bool pinned = alloc.getBuffer().getType().getMemory() == Memory::Pinned;
    if (pinned && getMemory() == Memory::Host)
      return alloc.emitOpError("is pinned, but there is no device to reach it");
    if (!getArenaBytes())
      continue;
    if (!alloc.getOffset())
      return alloc.emitOpError("has no offset in a program with an arena");
    if (*alloc.getOffset() % kArenaAlignment != 0)
      return alloc.emitOpError() << "offset " << *alloc.getOffset() << " is not a multiple of "
                                 << kArenaAlignment;
    const uint64_t arena = pinned ? getPinnedBytes().value_or(0) : *getArenaBytes();
    if (uint64_t(*alloc.getOffset()) + alloc.getBytes() > arena)
      return alloc.emitOpError() << "ends at byte " << *alloc.getOffset() + alloc.getBytes()
                                 << " of an arena of " << arena << " bytes";
  }
  return success();
}

LogicalResult plan::WeightOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto module = (*this)->getParentOfType<ModuleOp>();
  if (!symbols.lookupSymbolIn<SegmentOp>(module, getSegmentAttr()))
    return emitOpError() << getSegmentAttr() << " is not a plan.segment";
  return success();
}

//===--- commands ---------------------------------------------------------------------------===//

LogicalResult DispatchOp::verify() {
  if (getAccesses().size() != getOperands_().size())
    return emitOpError() << "has " << getOperands_().size() << " operands but "
                         << getAccesses().size() << " accesses";
  for (auto [index, operand, access] :
       llvm::enumerate(getOperands_(), getAccesses().getAsRange<AccessAttr>()))
    if (writes(access.getValue()) && !isWritable(operand))
      return emitOpError() << "operand " << index << " is written but read-only";
  return success();
}

LogicalResult DispatchOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto module = (*this)->getParentOfType<ModuleOp>();
  auto kernel = symbols.lookupSymbolIn<KernelOp>(module, getKernelAttr());
  if (!kernel)
    return emitOpError() << getKernelAttr() << " is not a plan.kernel";
  const bool onDevice = (*this)->getParentOfType<ProgramOp>().getMemory() == Memory::Device;
  if (kernel.getMachine() == Machine::Cuda && !onDevice)
    return emitOpError() << getKernelAttr() << " is a device's, the program is not in its memory";
  if (kernel.getMachine() == Machine::Cpu && onDevice)
    for (auto [index, operand] : llvm::enumerate(getOperands_()))
      if (cast<BufferType>(operand.getType()).getMemory() == Memory::Device)
        return emitOpError() << "operand " << index
                             << " is in device memory, which the host does not reach";
  return success();
}

LogicalResult JoinOp::verify() {
  if ((*this)->getParentOfType<ProgramOp>().getMemory() != Memory::Device)
    return emitOpError("there is no work for the host beside a program of its own");
  return success();
}

LogicalResult CopyOp::verify() {
  if (!isWritable(getTarget()))
    return emitOpError("target is read-only");
  for (Value buffer : {getSource(), getTarget()})
    if (int64_t limit = accessibleBytes(buffer); limit && getBytes() > uint64_t(limit))
      return emitOpError() << "of " << getBytes() << " bytes, but a buffer has only " << limit;
  return success();
}

LogicalResult BarrierOp::canonicalize(BarrierOp barrier, PatternRewriter &rewriter) {
  // Buffers are declarations: what counts is the next and the previous command.
  auto isCommand = [](Operation *op) { return isa<DispatchOp, CopyOp, BarrierOp, JoinOp>(op); };
  Operation *next = barrier->getNextNode(), *previous = barrier->getPrevNode();
  while (next && !isCommand(next))
    next = next->getNextNode();
  while (previous && !isCommand(previous))
    previous = previous->getPrevNode();
  if (next && previous && !isa<BarrierOp, JoinOp>(next) && !isa<JoinOp>(previous))
    return failure();
  rewriter.eraseOp(barrier);
  return success();
}
