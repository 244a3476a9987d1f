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

bool isPinned(plan::AllocOp alloc) {
  return alloc.getBuffer().getType().getMemory() == plan::Memory::Pinned;
}

/// Of the scratch buffers in pinned memory, or of all others. What the host works on lives until it
/// has joined.
SmallVector<LiveBuffer> liveBuffers(const SymbolTable &symbols, plan::ProgramOp program,
                                    bool pinned) {
  SmallVector<LiveBuffer> buffers;
  llvm::DenseMap<Operation *, size_t> index;
  SmallVector<size_t> unjoined;
  int64_t stretch = 0;
  auto join = [&] {
    for (size_t buffer : unjoined)
      buffers[buffer].last = std::max(buffers[buffer].last, stretch);
    unjoined.clear();
  };
  for (Operation &op : program.getBody().front()) {
    if (isa<plan::JoinOp>(op))
      join();
    if (isa<plan::BarrierOp, plan::JoinOp>(op))
      ++stretch;
    auto dispatch = dyn_cast<plan::DispatchOp>(op);
    const bool onHost = dispatch && plan::isHostWork(symbols, dispatch);
    for (Value operand : op.getOperands()) {
      auto alloc = operand.getDefiningOp<plan::AllocOp>();
      if (!alloc || isPinned(alloc) != pinned)
        continue;
      auto [it, isNew] = index.try_emplace(alloc, buffers.size());
      if (isNew)
        buffers.push_back({alloc, stretch, stretch, int64_t(alloc.getBytes())});
      buffers[it->second].last = stretch;
      if (onHost)
        unjoined.push_back(it->second);
    }
  }
  join();
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
    SymbolTable symbols(getOperation());
    getOperation().walk([&](plan::ProgramOp program) {
      for (auto alloc : llvm::make_early_inc_range(program.getBody().getOps<plan::AllocOp>()))
        if (alloc->use_empty())
          alloc.erase();
      for (bool pinned : {false, true}) {
        SmallVector<LiveBuffer> buffers = liveBuffers(symbols, program, pinned);
        const int64_t bytes = placeBuffers(buffers);
        if (!pinned)
          program.setArenaBytes(bytes);
        else if (bytes > 0)
          program.setPinnedBytes(bytes);
        for (LiveBuffer &buffer : buffers)
          buffer.op.setOffset(buffer.offset);
      }
      return WalkResult::skip();
    });
  }
};

} // namespace
