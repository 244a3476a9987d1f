// Takes a session from one plan to another while it goes on.
#pragma once

#include "runtime/control/event.h"
#include "runtime/residency/residency.h"
#include "runtime/session/session.h"
#include "runtime/support/status.h"

#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <vector>

namespace moeplan {

/// Lets something run with all sessions of the backend, none of which goes away meanwhile.
using WithSessions =
    std::function<void(const std::function<void(const std::vector<Session *> &)> &)>;

/// One switch. Weights that the next plan lacks are staged while the session goes on with its plan;
/// then the plans are exchanged between two steps, and what nobody needs any more is given up.
/// Where both do not fit, experts that the next plan does not need leave the device first: the plan
/// in use then reads them from the host's memory, slower and with the same results. What still does
/// not fit is brought in behind the exchange. Used on one thread, which is not that of a session.
class Switcher {
public:
  Switcher(Backend &backend, Session &session, const fb::Plan &target, Staging staging,
           WithSessions withSessions, EventListener tell);

  /// Errors: those of staging. The session then goes on with the plan it had, which has its weights
  /// back where there is room for them, unless it was cancelled: then what comes next decides.
  Status run();

  /// Puts the weights of the session's plan to where it keeps them, as far as there is room.
  /// Errors: as above; the rest stays in the host's memory.
  Status bringBack();
  /// Whether run() has taken weights from plans in use.
  bool hasEvicted() const { return evicted_; }

private:
  Status stageAndFlip();
  Status makeRoom();
  Status checkDeferred() const;
  void evict(const std::set<uint32_t> &experts);
  Status evictDense();
  void flip(std::unique_ptr<LoadedPlan> next);
  void forEachSession(const std::function<void(Session &)> &action);
  bool isCounted(Held held) const { return residency_.counts(held.memory); }
  /// Bytes that have to be free before the target can be loaded, without `deferred_`.
  uint64_t bytesToAllocate() const;
  uint64_t shortage() const;
  uint64_t stagedBytes() const { return residency_.counters().stagedBytes - stagedBefore_; }
  void tell(moeplan_event_kind kind, uint64_t bytes, std::string reason = {}) const;

  using Clock = std::chrono::steady_clock;

  Backend &backend_;
  Residency &residency_;
  Session &session_;
  const fb::Plan &target_, *from_;
  Staging staging_;
  WithSessions withSessions_;
  EventListener tell_;
  PlanWeights weights_;         ///< of the target
  std::set<Held> needed_;       ///< the same
  std::set<uint32_t> deferred_; ///< experts of the target that come behind the exchange
  bool evicted_ = false;
  uint64_t stagedBefore_ = 0;
  uint32_t position_ = 0;
  Clock::time_point start_;
};

/// Bytes of its weights that count against the budget.
uint64_t countedWeightBytes(const Residency &residency, const fb::Plan &plan);

} // namespace moeplan
