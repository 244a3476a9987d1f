#include "compiler/transforms/passes.h"

#include "mlir/IR/Builders.h"
#include "llvm/Support/GlobPattern.h"

namespace moeplan::compiler {
#define GEN_PASS_DEF_APPLYPLACEMENT
#include "compiler/transforms/Passes.h.inc"
} // namespace moeplan::compiler

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// The rules of one tier with their compiled patterns and whether each has matched anything.
class TierRules {
public:
  explicit TierRules(moe::TierOp tier) : tier(tier) {
    for (auto rule : tier.getRulesAttr().getAsRange<moe::RuleAttr>())
      rules.push_back(
          {rule, llvm::cantFail(llvm::GlobPattern::create(rule.getPattern().getValue())), false});
  }

  /// The placement of the expert called `name`; null, with an error, where rules leave it open.
  moe::PlacementAttr place(const std::string &name) {
    StringAttr residency = decide(name, &moe::RuleAttr::getResidency, name);
    if (!residency) {
      tier.emitError() << "tier '" << tier.getSymName() << "' gives no residency to " << name;
      return {};
    }
    SmallVector<StringAttr, 3> formats;
    for (StringRef linear : {"w1", "w3", "w2"}) {
      formats.push_back(decide((name + "." + linear).str(), &moe::RuleAttr::getFormat, name));
      if (!formats.back()) {
        tier.emitError() << "tier '" << tier.getSymName() << "' gives no format to " << name << "."
                         << linear;
        return {};
      }
    }
    return moe::PlacementAttr::get(tier.getContext(), formats[0], formats[1], formats[2],
                                   *moe::symbolizeResidency(residency.getValue()));
  }

  /// A pattern without effect is most likely a typing error.
  LogicalResult checkAllMatched() {
    for (const Rule &rule : rules)
      if (!rule.matched)
        return tier.emitError() << "tier '" << tier.getSymName() << "': pattern '"
                                << rule.attr.getPattern().getValue() << "' matches no expert";
    return success();
  }

private:
  struct Rule {
    moe::RuleAttr attr;
    llvm::GlobPattern pattern;
    bool matched;
  };

  /// The field of the first rule that has it and matches `name`, or the whole expert.
  StringAttr decide(const std::string &name, StringAttr (moe::RuleAttr::*field)() const,
                    const std::string &expert) {
    StringAttr decision;
    for (Rule &rule : rules) {
      if (!rule.pattern.match(name) && !rule.pattern.match(expert))
        continue;
      rule.matched = true;
      if (!decision)
        decision = (rule.attr.*field)();
    }
    return decision;
  }

  moe::TierOp tier;
  std::vector<Rule> rules;
};

/// Gives the experts, layer after layer, what `place` says; it is called with their names and fails
/// with null.
LogicalResult placeExperts(ArrayRef<moe::ExpertsOp> layers,
                           function_ref<moe::PlacementAttr(const std::string &)> place) {
  for (moe::ExpertsOp op : layers) {
    SmallVector<Attribute> placed;
    for (auto [index, expert] : llvm::enumerate(op.getExperts().getAsRange<moe::ExpertAttr>())) {
      std::string name = ("layers." + Twine(op.getLayer()) + ".experts." + Twine(index)).str();
      moe::PlacementAttr placement = place(name);
      if (!placement)
        return failure();
      placed.push_back(moe::ExpertAttr::get(op.getContext(), expert.getW1(), expert.getW3(),
                                            expert.getW2(), placement));
    }
    op.setExpertsAttr(ArrayAttr::get(op.getContext(), placed));
  }
  return success();
}

LogicalResult placeByRules(moe::TierOp tier, ArrayRef<moe::ExpertsOp> layers) {
  TierRules rules(tier);
  if (failed(placeExperts(layers, [&](const std::string &name) { return rules.place(name); })))
    return failure();
  return rules.checkAllMatched();
}

LogicalResult placeByTable(moe::TierOp tier, ArrayRef<moe::ExpertsOp> layers) {
  ArrayAttr table = tier.getPlacementsAttr();
  size_t experts = 0;
  for (moe::ExpertsOp op : layers)
    experts += op.getExperts().size();
  if (table.size() != experts)
    return tier.emitError() << "tier '" << tier.getSymName() << "' places " << table.size()
                            << " experts, the model has " << experts;
  size_t next = 0;
  return placeExperts(layers,
                      [&](const std::string &) { return cast<moe::PlacementAttr>(table[next++]); });
}

/// A strategy for experts in host memory needs one.
LogicalResult checkMiss(moe::TierOp tier, ArrayRef<moe::ExpertsOp> layers) {
  moe::MissAttr miss = tier.getMissAttr();
  if (!miss || miss.getStrategy() == moe::MissStrategy::None)
    return success();
  for (moe::ExpertsOp op : layers)
    for (auto expert : op.getExperts().getAsRange<moe::ExpertAttr>())
      if (expert.getPlacement().getResidency() == moe::Residency::Host)
        return success();
  return tier.emitError() << "tier '" << tier.getSymName() << "' has a strategy for misses, '"
                          << moe::stringifyMissStrategy(miss.getStrategy())
                          << "', but no expert in host memory";
}

/// Places the experts of a copy of the model.
LogicalResult placeTier(moe::TierOp tier, func::FuncOp placed) {
  SmallVector<moe::ExpertsOp> layers;
  placed.walk([&](moe::ExpertsOp op) { layers.push_back(op); });
  llvm::stable_sort(layers,
                    [](moe::ExpertsOp a, moe::ExpertsOp b) { return a.getLayer() < b.getLayer(); });
  if (failed(tier.getPlacementsAttr() ? placeByTable(tier, layers) : placeByRules(tier, layers)))
    return failure();
  return checkMiss(tier, layers);
}

struct ApplyPlacementPass : compiler::impl::ApplyPlacementBase<ApplyPlacementPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto forward = module.lookupSymbol<func::FuncOp>(moe::kForwardName);
    auto tiers = llvm::to_vector(module.getOps<moe::TierOp>());
    if (!forward || tiers.empty()) {
      module.emitError() << "apply-placement needs a function @" << moe::kForwardName
                         << " and at least one moe.tier";
      return signalPassFailure();
    }
    for (moe::TierOp tier : tiers) {
      OpBuilder builder(tier);
      auto placed = cast<func::FuncOp>(builder.clone(*forward));
      placed.setSymName(tier.getSymName());
      placed->setAttr(moe::kTierAttrName, tier.getSymNameAttr());
      if (StringAttr format = tier.getNonExpertFormatAttr())
        placed->setAttr(moe::kNonExpertFormatAttrName, format);
      if (moe::MissAttr miss = tier.getMissAttr())
        placed->setAttr(moe::kMissAttrName, miss);
      if (failed(placeTier(tier, placed)))
        return signalPassFailure();
    }
    for (moe::TierOp tier : tiers)
      tier.erase();
    forward.erase();
  }
};

} // namespace
