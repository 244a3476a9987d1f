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
  /// Allocations are themselves; weights are never written; a resource is its kind and index.
  static std::pair<void *, int64_t> key(Value buffer) {
    if (auto resource = buffer.getDefiningOp<plan::ResourceOp>())
      return {nullptr, int64_t(resource.getKind()) << 32 | int64_t(resource.getIndex())};
    return {buffer.getAsOpaquePointer(), -1};
  }
  llvm::DenseMap<std::pair<void *, int64_t>, bool> touched;
};

struct ScheduleTransfersPass : compiler::impl::ScheduleTransfersBase<ScheduleTransfersPass> {
  void runOnOperation() override {
    auto result = getOperation().walk([&](plan::ProgramOp program) {
      if (failed(insertCopies(program)))
        return WalkResult::interrupt();
      insertBarriers(program);
      return WalkResult::skip();
    });
    if (result.wasInterrupted())
      signalPassFailure();
  }

  LogicalResult insertCopies(plan::ProgramOp program) {
    auto local = plan::BufferType::get(&getContext(), program.getMemory());
    for (auto dispatch : llvm::make_early_inc_range(program.getBody().getOps<plan::DispatchOp>())) {
      OpBuilder before(dispatch), after(&getContext());
      after.setInsertionPointAfter(dispatch);
      for (auto [operand, attr] : llvm::zip_equal(
               dispatch->getOpOperands(), dispatch.getAccesses().getAsRange<plan::AccessAttr>())) {
        Value remote = operand.get();
        if (memoryOf(remote) == program.getMemory())
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

  void insertBarriers(plan::ProgramOp program) {
    for (auto barrier : llvm::make_early_inc_range(program.getBody().getOps<plan::BarrierOp>()))
      barrier.erase();
    HazardSet sinceBarrier;
    for (Operation &op : program.getBody().front()) {
      SmallVector<std::pair<Value, bool>> touches;
      if (auto dispatch = dyn_cast<plan::DispatchOp>(op)) {
        for (auto [buffer, attr] : llvm::zip_equal(
                 dispatch.getOperands_(), dispatch.getAccesses().getAsRange<plan::AccessAttr>()))
          touches.push_back({buffer, plan::writes(attr.getValue())});
      } else if (auto copy = dyn_cast<plan::CopyOp>(op)) {
        touches = {{copy.getSource(), false}, {copy.getTarget(), true}};
      }
      bool wait = llvm::any_of(
          touches, [&](auto touch) { return sinceBarrier.conflicts(touch.first, touch.second); });
      if (wait) {
        OpBuilder(&op).create<plan::BarrierOp>(op.getLoc());
        sinceBarrier.clear();
        ++numBarriers;
      }
      for (auto [buffer, write] : touches)
        sinceBarrier.add(buffer, write);
    }
  }
};

} // namespace
