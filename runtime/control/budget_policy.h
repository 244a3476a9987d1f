// Which plan a budget of device memory allows, without flapping.
#pragma once

#include "moeplan_generated.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

namespace moeplan {

/// See `Switching` in moeplan.fbs.
struct BudgetRules {
  double hysteresis = 0.05;
  double minSeconds = 10;
};

/// A plan that may be chosen, with the device memory that it would take.
struct Candidate {
  const fb::Plan *plan;
  uint64_t bytes;
};

/// What is to be done now.
struct BudgetChoice {
  const fb::Plan *plan = nullptr; ///< null: no candidate fits
  /// When to ask again, though nothing will have changed; nothing: not at all.
  std::optional<std::chrono::steady_clock::time_point> askAgain = std::nullopt;
};

/// Decides for a plan under a budget. A plan that no longer fits is left at once, for the best that
/// does. A better one is taken when it leaves `hysteresis` of the budget free, and not before
/// `minSeconds` have passed since the last switch. Pure, but for the time of that switch.
class BudgetPolicy {
public:
  using Clock = std::chrono::steady_clock;

  explicit BudgetPolicy(BudgetRules rules) : rules_(rules) {}

  /// `candidates` from the best to the worst; `current` need not be among them, or may be null.
  BudgetChoice choose(const std::vector<Candidate> &candidates, const fb::Plan *current,
                      uint64_t budget, Clock::time_point now) const;
  /// A switch that the budget has caused begins.
  void switched(Clock::time_point now) { last_ = now; }

private:
  BudgetRules rules_;
  std::optional<Clock::time_point> last_;
};

} // namespace moeplan
