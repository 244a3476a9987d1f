#include "compiler/transforms/passes.h"

#include "llvm/Support/MathExtras.h"

namespace moeplan::compiler {
#define GEN_PASS_DEF_ASSIGNARENA
#include "compiler/transforms/Passes.h.inc"
} // namespace moeplan::compiler

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// A scratch buffer and the stretches between barriers, first to last, that touch it.
struct LiveBuffer {
  plan::AllocOp op;
  int64_t first, last;
  int64_t bytes, offset = 0;

  bool livesWith(const LiveBuffer &other) const {
    return first <= other.last && other.first <= last;
  }
};

SmallVector<LiveBuffer> liveBuffers(plan::ProgramOp program) {
  SmallVector<LiveBuffer> buffers;
  llvm::DenseMap<Operation *, size_t> index;
  int64_t stretch = 0;
  for (Operation &op : program.getBody().front()) {
    if (isa<plan::BarrierOp>(op))
      ++stretch;
    for (Value operand : op.getOperands()) {
      auto alloc = operand.getDefiningOp<plan::AllocOp>();
      if (!alloc)
        continue;
      auto [it, isNew] = index.try_emplace(alloc, buffers.size());
      if (isNew)
        buffers.push_back({alloc, stretch, stretch, int64_t(alloc.getBytes())});
      buffers[it->second].last = stretch;
    }
  }
  return buffers;
}

/// Places each buffer and returns the arena's size in bytes.
int64_t placeBuffers(SmallVectorImpl<LiveBuffer> &buffers) {
  llvm::stable_sort(buffers,
                    [](const LiveBuffer &a, const LiveBuffer &b) { return a.bytes > b.bytes; });
  int64_t arenaBytes = 0;
  SmallVector<LiveBuffer *> placed; // by offset
  for (LiveBuffer &buffer : buffers) {
    int64_t offset = 0;
    for (LiveBuffer *other : placed) {
      if (!buffer.livesWith(*other))
        continue;
      if (offset + buffer.bytes <= other->offset)
        break;
      int64_t end = llvm::alignTo(other->offset + other->bytes, plan::kArenaAlignment);
      offset = std::max(offset, end);
    }
    buffer.offset = offset;
    arenaBytes = std::max(arenaBytes, offset + buffer.bytes);
    placed.insert(
        llvm::upper_bound(placed, &buffer,
                          [](LiveBuffer *a, LiveBuffer *b) { return a->offset < b->offset; }),
        &buffer);
  }
  return llvm::alignTo(arenaBytes, plan::kArenaAlignment);
}

struct AssignArenaPass : compiler::impl::AssignArenaBase<AssignArenaPass> {
  void runOnOperation() override {
    getOperation().walk([&](plan::ProgramOp program) {
      for (auto alloc : llvm::make_early_inc_range(program.getBody().getOps<plan::AllocOp>()))
        if (alloc->use_empty())
          alloc.erase();
      SmallVector<LiveBuffer> buffers = liveBuffers(program);
      program.setArenaBytes(placeBuffers(buffers));
      for (LiveBuffer &buffer : buffers)
        buffer.op.setOffset(buffer.offset);
      return WalkResult::skip();
    });
  }
};

} // namespace
