#include "compiler/transforms/passes.h"

#include "expert_kernels.h"
#include "formats.h"

namespace moeplan::compiler {
#define GEN_PASS_DEF_CHECKKERNELFORMATS
#include "compiler/transforms/Passes.h.inc"
} // namespace moeplan::compiler

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

std::optional<int64_t> constantOf(plan::KernelOp kernel, StringRef name) {
  if (auto value = kernel.getConstants().getAs<IntegerAttr>(name))
    return value.getInt();
  return std::nullopt;
}

struct CheckKernelFormatsPass : compiler::impl::CheckKernelFormatsBase<CheckKernelFormatsPass> {
  void runOnOperation() override {
    SymbolTable symbols(getOperation());
    for (auto planOp : getOperation().getOps<plan::PlanOp>()) {
      llvm::DenseMap<int64_t, plan::ExpertTableOp> tables;
      for (auto table : planOp.getOps<plan::ExpertTableOp>())
        tables[table.getLayer()] = table;
      auto failed = planOp.walk([&](plan::DispatchOp dispatch) -> WalkResult {
        auto kernel = symbols.lookup<plan::KernelOp>(dispatch.getKernel());
        for (Value operand : dispatch.getOperands_())
          if (mlir::failed(check(symbols, tables, dispatch, kernel, operand)))
            return WalkResult::interrupt();
        return WalkResult::advance();
      });
      if (failed.wasInterrupted())
        return signalPassFailure();
    }
  }

  static LogicalResult check(SymbolTable &symbols,
                             const llvm::DenseMap<int64_t, plan::ExpertTableOp> &tables,
                             plan::DispatchOp dispatch, plan::KernelOp kernel, Value operand) {
    auto formatOf = [&](FlatSymbolRefAttr segment) {
      return findFormat(
          std::string_view(symbols.lookup<plan::SegmentOp>(segment.getValue()).getFormat()));
    };
    if (auto weight = operand.getDefiningOp<plan::WeightOp>()) {
      // Vectors are float32, and so are the weights of kernels without the constant.
      bool isVector = symbols.lookup<plan::SegmentOp>(weight.getSegment()).getShape().size() == 1;
      const FormatInfo *read = findFormat(
          uint32_t(isVector ? int64_t(MOEPLAN_FORMAT_F32)
                            : constantOf(kernel, "weight_format").value_or(MOEPLAN_FORMAT_F32)));
      if (formatOf(weight.getSegmentAttr()) != read)
        return dispatch.emitError() << "kernel '" << kernel.getSymName() << "' reads "
                                    << (read ? StringRef(read->name) : "no known format")
                                    << ", not " << weight.getSegment();
      return success();
    }
    auto resource = operand.getDefiningOp<plan::ResourceOp>();
    if (!resource || resource.getKind() != plan::ResourceKind::Experts)
      return success();
    auto table = tables.find(resource.getIndex());
    const std::optional<int64_t> formats = constantOf(kernel, "formats");
    if (table == tables.end())
      return dispatch.emitError() << "kernel '" << kernel.getSymName()
                                  << "' reads experts of a layer that has none";
    plan::ExpertTableOp experts = table->second;
    const ExpertKernel *reader = findExpertKernel(std::string_view(kernel.getImplementation()));
    if (!reader)
      return dispatch.emitError() << "'" << kernel.getImplementation()
                                  << "' is none of the kernels that read experts";
    if (reader->readsAny() && !formats)
      return dispatch.emitError() << "kernel '" << kernel.getSymName()
                                  << "' states no formats of the experts it reads";
    for (auto expert : experts.getExperts().getAsRange<plan::ExpertAttr>()) {
      const FlatSymbolRefAttr segments[] = {expert.getW1(), expert.getW3(), expert.getW2()};
      for (Linear linear : kLinears) {
        FlatSymbolRefAttr segment = segments[int(linear)];
        if (reader->reads(linear) && !(*formats >> formatOf(segment)->id & 1))
          return dispatch.emitError() << "no kernel for " << segment.getValue() << ": '"
                                      << kernel.getSymName() << "' was not made for its format";
      }
    }
    return success();
  }
};

} // namespace
