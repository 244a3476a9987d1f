#include "runtime/control/budget_policy.h"

#include <algorithm>

namespace moeplan {

BudgetChoice BudgetPolicy::choose(const std::vector<Candidate> &candidates, const fb::Plan *current,
                                  uint64_t budget, Clock::time_point now) const {
  auto bestWithin = [&](double bytes) {
    return std::find_if(candidates.begin(), candidates.end(), [&](const Candidate &candidate) {
      return static_cast<double>(candidate.bytes) <= bytes;
    });
  };
  const auto active =
      std::find_if(candidates.begin(), candidates.end(),
                   [&](const Candidate &candidate) { return candidate.plan == current; });
  if (active == candidates.end() || active->bytes > budget) {
    const auto best = bestWithin(static_cast<double>(budget));
    return {best == candidates.end() ? nullptr : best->plan};
  }
  const auto better = bestWithin(static_cast<double>(budget) * (1 - rules_.hysteresis));
  if (better >= active)
    return {current};
  if (last_) {
    const auto earliest = *last_ + std::chrono::duration_cast<Clock::duration>(
                                       std::chrono::duration<double>(rules_.minSeconds));
    if (now < earliest)
      return {current, earliest};
  }
  return {better->plan};
}

} // namespace moeplan
