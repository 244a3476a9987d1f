#include "compiler/transforms/passes.h"

#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace moeplan::compiler {
#define GEN_PASS_DEF_FUSE
#include "compiler/transforms/Passes.h.inc"
} // namespace moeplan::compiler

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// add(r, producer(x)) -> producer(x) residual(r), where r is there before the producer.
template <typename Producer> struct FoldResidual : OpRewritePattern<moe::AddOp> {
  FoldResidual(MLIRContext *context, Pass::Statistic &fused)
      : OpRewritePattern(context), fused(fused) {}

  LogicalResult matchAndRewrite(moe::AddOp add, PatternRewriter &rewriter) const override {
    for (auto [sum, residual] : {std::pair(add.getX(), add.getY()), {add.getY(), add.getX()}}) {
      auto producer = sum.template getDefiningOp<Producer>();
      if (!producer || producer.getResidual() || !sum.hasOneUse() || !precedes(residual, producer))
        continue;
      rewriter.modifyOpInPlace(producer, [&] { producer.getResidualMutable().assign(residual); });
      rewriter.replaceOp(add, producer.getResult());
      ++fused;
      return success();
    }
    return failure();
  }

  static bool precedes(Value value, Operation *op) {
    Operation *definition = value.getDefiningOp();
    return !definition ||
           (definition->getBlock() == op->getBlock() && definition->isBeforeInBlock(op));
  }

  Pass::Statistic &fused;
};

struct FusePass : compiler::impl::FuseBase<FusePass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<FoldResidual<moe::AttentionOp>, FoldResidual<moe::ExpertsOp>>(&getContext(),
                                                                               numFused);
    if (failed(applyPatternsAndFoldGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace
