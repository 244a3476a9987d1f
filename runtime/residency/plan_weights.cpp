#include "runtime/residency/plan_weights.h"

#include "runtime/artifact/programs.h"

#include <algorithm>
#include <set>

namespace moeplan {

bool usesDevice(const fb::Plan &plan) {
  return plan.miss_strategy() != fb::MissStrategy::none ||
         std::any_of(plan.experts()->begin(), plan.experts()->end(), [](const fb::Expert *expert) {
           return expert->residency() == fb::Residency::device;
         });
}

PlanWeights weightsOf(const fb::Plan &plan, bool allOnDevice) {
  PlanWeights weights;
  const fb::Residency memory =
      allOnDevice || usesDevice(plan) ? fb::Residency::device : fb::Residency::host;
  std::set<uint32_t> seen;
  auto add = [&](const fb::Binding &binding) {
    if (binding.kind() == fb::BindingKind::segment && seen.insert(binding.index()).second)
      weights.dense.push_back({binding.index(), memory});
  };
  for (const fb::Program *program : allPrograms(plan))
    for (uint32_t i = 0; i < program->commands()->size(); ++i) {
      if (const auto *dispatch =
              program->commands_type()->GetEnum<fb::Command>(i) == fb::Command::Dispatch
                  ? program->commands()->GetAs<fb::Dispatch>(i)
                  : nullptr)
        for (const fb::Binding *binding : *dispatch->bindings())
          add(*binding);
      else if (program->commands_type()->GetEnum<fb::Command>(i) == fb::Command::Copy)
        add(*program->commands()->GetAs<fb::Copy>(i)->source());
    }
  weights.experts.reserve(plan.experts()->size());
  for (const fb::Expert *expert : *plan.experts()) {
    const fb::Residency own = allOnDevice ? fb::Residency::device : expert->residency();
    weights.experts.push_back({{{expert->w1(), own}, {expert->w3(), own}, {expert->w2(), own}}});
  }
  return weights;
}

std::vector<Held> PlanWeights::all() const {
  std::vector<Held> all = dense;
  std::set<Held> seen(dense.begin(), dense.end());
  for (const std::array<Held, 3> &expert : experts)
    for (const Held &held : expert)
      if (seen.insert(held).second)
        all.push_back(held);
  return all;
}

} // namespace moeplan
