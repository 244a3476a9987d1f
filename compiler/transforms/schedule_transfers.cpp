#include "compiler/transforms/passes.h"

#include "mlir/IR/Builders.h"

namespace moeplan::compiler {
#define GEN_PASS_DEF_SCHEDULETRANSFERS
#include "compiler/transforms/Passes.h.inc"
} // namespace moeplan::compiler

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

plan::Memory memoryOf(Value buffer) { return cast<plan::BufferType>(buffer.getType()).getMemory(); }

/// What touches memory between two barriers. Two SSA values may name one resource.
class HazardSet {
public:
  /// Whether accessing `buffer` so must wait for what is in the set.
  bool conflicts(Value buffer, bool write) const {
    auto it = touched.find(key(buffer));
    return it != touched.end() && (write || it->second);
  }
  void add(Value buffer, bool write) { touched[key(buffer)] |= write; }
  void clear() { touched.clear(); }

private:
  /// Allocations are themselves; weights are never written; a resource is its memory, kind and
  /// index.
  static std::pair<const void *, int64_t> key(Value buffer) {
    if (auto resource = buffer.getDefiningOp<plan::ResourceOp>())
      return {resource.getBuffer().getType().getAsOpaquePointer(),
              int64_t(resource.getKind()) << 32 | int64_t(resource.getIndex())};
    return {buffer.getAsOpaquePointer(), -1};
  }
  llvm::DenseMap<std::pair<const void *, int64_t>, bool> touched;
};

/// A buffer, and whether it is written.
using Touch = std::pair<Value, bool>;

SmallVector<Touch> touchesOf(Operation &op) {
  SmallVector<Touch> touches;
  if (auto dispatch = dyn_cast<plan::DispatchOp>(op))
    for (auto [buffer, attr] : llvm::zip_equal(
             dispatch.getOperands_(), dispatch.getAccesses().getAsRange<plan::AccessAttr>()))
      touches.push_back({buffer, plan::writes(attr.getValue())});
  else if (auto copy = dyn_cast<plan::CopyOp>(op))
    touches = {{copy.getSource(), false}, {copy.getTarget(), true}};
  return touches;
}

struct ScheduleTransfersPass : compiler::impl::ScheduleTransfersBase<ScheduleTransfersPass> {
  void runOnOperation() override {
    SymbolTable symbols(getOperation());
    auto result = getOperation().walk([&](plan::ProgramOp program) {
      if (failed(insertCopies(symbols, program)))
        return WalkResult::interrupt();
      insertBarriers(symbols, program);
      return WalkResult::skip();
    });
    if (result.wasInterrupted())
      signalPassFailure();
  }

  LogicalResult insertCopies(SymbolTable &symbols, plan::ProgramOp program) {
    auto local = plan::BufferType::get(&getContext(), program.getMemory());
    for (auto dispatch : llvm::make_early_inc_range(program.getBody().getOps<plan::DispatchOp>())) {
      if (plan::isHostWork(symbols, dispatch))
        continue; // which is given nothing that it does not reach
      OpBuilder before(dispatch), after(&getContext());
      after.setInsertionPointAfter(dispatch);
      for (auto [operand, attr] : llvm::zip_equal(
               dispatch->getOpOperands(), dispatch.getAccesses().getAsRange<plan::AccessAttr>())) {
        Value remote = operand.get();
        if (memoryOf(remote) == program.getMemory() || memoryOf(remote) == plan::Memory::Pinned)
          continue;
        int64_t bytes = plan::accessibleBytes(remote);
        if (bytes == 0)
          return dispatch.emitOpError() << "operand " << operand.getOperandNumber()
                                        << " lies in another memory and has no size to copy";
        Value staging =
            before.create<plan::AllocOp>(dispatch.getLoc(), local, bytes, IntegerAttr());
        if (plan::reads(attr.getValue())) {
          before.create<plan::CopyOp>(dispatch.getLoc(), remote, staging, bytes);
          ++numCopies;
        }
        if (plan::writes(attr.getValue())) {
          after.create<plan::CopyOp>(dispatch.getLoc(), staging, remote, bytes);
          ++numCopies;
        }
        operand.set(staging);
      }
    }
    return success();
  }

  void insertBarriers(SymbolTable &symbols, plan::ProgramOp program) {
    for (Operation &op : llvm::make_early_inc_range(program.getBody().front()))
      if (isa<plan::BarrierOp, plan::JoinOp>(op))
        op.erase();
    // Since the last barrier, of the program's own machine and of the host beside it; and what the
    // host may not have finished.
    HazardSet own, host, unjoined;
    for (Operation &op : program.getBody().front()) {
      const SmallVector<Touch> touches = touchesOf(op);
      auto dispatch = dyn_cast<plan::DispatchOp>(op);
      const bool onHost = dispatch && plan::isHostWork(symbols, dispatch);
      auto waitsFor = [&](const HazardSet &set) {
        return llvm::any_of(touches,
                            [&](Touch touch) { return set.conflicts(touch.first, touch.second); });
      };
      const bool joins = !onHost && waitsFor(unjoined);
      if (joins)
        OpBuilder(&op).create<plan::JoinOp>(op.getLoc());
      else if (waitsFor(onHost ? host : own))
        OpBuilder(&op).create<plan::BarrierOp>(op.getLoc()), ++numBarriers;
      if (joins)
        unjoined.clear();
      if (joins || isa_and_nonnull<plan::BarrierOp>(op.getPrevNode())) {
        own.clear();
        host.clear();
      }
      for (auto [buffer, write] : touches) {
        (onHost ? host : own).add(buffer, write);
        if (onHost)
          unjoined.add(buffer, write);
      }
    }
  }
};

} // namespace
