#include "compiler/driver/tier_op.h"

#include "dialects/moe/MoeDialect.h"
#include "expert_kernels.h"

#include "mlir/IR/Builders.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

mlir::ArrayAttr rulesOf(const Tier &tier, mlir::Builder &builder) {
  auto string = [&](StringRef text) {
    return text.empty() ? mlir::StringAttr() : builder.getStringAttr(text);
  };
  SmallVector<mlir::Attribute> rules;
  auto add = [&](StringRef pattern, StringRef format, StringRef residency) {
    rules.push_back(moe::RuleAttr::get(builder.getContext(), string(pattern), string(format),
                                       string(residency)));
  };
  for (const PinRule &pin : tier.pins)
    add(pin.experts, pin.format, pin.residency);
  add("*", "bf16", "host");
  return builder.getArrayAttr(rules);
}

mlir::ArrayAttr placementsOf(const Placement &placement, mlir::Builder &builder) {
  SmallVector<mlir::Attribute> experts;
  for (const ExpertPlacement &expert : placement.experts) {
    auto name = [&](Linear linear) {
      return builder.getStringAttr(StringRef(expert.formats[size_t(linear)]->name));
    };
    experts.push_back(moe::PlacementAttr::get(
        builder.getContext(), name(Linear::w1), name(Linear::w3), name(Linear::w2),
        expert.residency == Residency::Device ? moe::Residency::Device : moe::Residency::Host));
  }
  return builder.getArrayAttr(experts);
}

} // namespace

void moeplan::compiler::addTier(mlir::ModuleOp module, const Tier &tier,
                                const Placement *placement) {
  mlir::OpBuilder builder(module.getBodyRegion());
  builder.setInsertionPointToEnd(module.getBody());
  mlir::StringAttr nonExperts;
  if (!tier.nonExpertFormat.empty() && tier.nonExpertFormat != "bf16")
    nonExperts = builder.getStringAttr(tier.nonExpertFormat);
  moe::MissAttr miss;
  if (placement && placement->miss != MissStrategy::None)
    miss = moe::MissAttr::get(builder.getContext(), moe::MissStrategy(placement->miss),
                              placement->cacheSlots);
  const bool isPlaced = placement && tier.planned;
  builder.create<moe::TierOp>(builder.getUnknownLoc(), builder.getStringAttr(tier.name),
                              isPlaced ? mlir::ArrayAttr() : rulesOf(tier, builder),
                              isPlaced ? placementsOf(*placement, builder) : mlir::ArrayAttr(),
                              nonExperts, miss);
}
