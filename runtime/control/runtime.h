// Controls which plan each session runs: requests to switch, a budget of device memory, and the
// canary.
#pragma once

#include "runtime/control/budget_policy.h"
#include "runtime/control/canary_guard.h"
#include "runtime/control/event.h"
#include "runtime/session/backend.h"
#include "runtime/session/session.h"
#include "runtime/support/status.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace moeplan {

struct RuntimeOptions {
  std::string_view device = "cpu";
  EventListener listener;
  std::optional<double> bandwidthShare, hysteresis, minSeconds; ///< absent: those of the artifact
};

/// Sessions of an artifact on a device, and one thread that acts on them between their steps. It
/// does one thing at a time: requests and budgets first, then checks. May be used from any number
/// of threads. Borrows the artifact.
class Runtime {
public:
  static Result<std::shared_ptr<Runtime>> create(const Artifact &artifact, RuntimeOptions options);
  /// All sessions must have been closed.
  ~Runtime();

  /// `options.plan` null: the first, or where there is a budget the best that fits.
  /// Events of the session name its `owner`.
  Result<Session *> createSession(SessionOptions options, const void *owner = nullptr);
  void closeSession(Session *session);

  /// See moeplan_session_switch_plan().
  Status switchPlan(Session &session, const char *name, bool wait);
  /// See moeplan_runtime_set_device_budget().
  Status setDeviceBudget(uint64_t bytes);
  /// See moeplan_runtime_set_canary().
  Status setCanary(std::span<const int32_t> tokens, const CanaryLimits &limits);
  /// See moeplan_runtime_verify_plan().
  Status verifyPlan(const char *name);

  Backend &backend() { return *backend_; }

private:
  using Clock = std::chrono::steady_clock;

  /// A session and what is wanted of it.
  struct Controlled : StepListener {
    Controlled(Runtime &runtime, std::unique_ptr<Session> session, const void *owner)
        : runtime(runtime), session(std::move(session)), owner(owner) {}
    void stepped(Session &session, size_t tokens) override;

    Runtime &runtime;
    std::unique_ptr<Session> session;
    const void *owner;
    std::atomic<uint64_t> tokensSinceCheck{0};
    std::atomic<bool> checkDue{false};
    std::atomic<Clock::time_point> lastStep{Clock::now()};
    // Under the runtime's mutex.
    const fb::Plan *wanted = nullptr; ///< null: nothing is
    bool restoreDue = false;          ///< another switch may have taken weights of its plan
    std::string rollbackReason;       ///< of the switch that is wanted; empty: it is none back
    uint64_t request = 0;             ///< number of the latest request
    uint64_t answered = 0;            ///< the latest that has been dealt with
    Status answer;                    ///< to that
    unsigned pins = 0;                ///< who uses the session beside its owner
    bool closing = false;
  };

  Runtime(std::shared_ptr<Backend> backend, RuntimeOptions options);

  void wake();
  void startThread();
  void work();
  /// The next session with something to do; the lock is held.
  Controlled *nextSwitch();
  Controlled *nextRestore();
  Controlled *nextCheck();
  void runSwitch(Controlled &controlled, std::unique_lock<std::mutex> &lock);
  void runRestore(Controlled &controlled, std::unique_lock<std::mutex> &lock);
  void runCheck(Controlled &controlled, std::unique_lock<std::mutex> &lock);
  void judge(Controlled &controlled, const CheckResult &result);
  void followBudget(Clock::time_point now);
  void request(Controlled &controlled, const fb::Plan &plan, std::string rollbackReason = {});
  void withSessions(const std::function<void(const std::vector<Session *> &)> &action);
  void tell(const Event &event);
  void tell(Event event, const Controlled &controlled);

  /// Plans that may be chosen, best first, with what they would take. `fixedOfOneMore`: the
  /// Session::fixedBytes() of a session to come. The lock is held.
  std::vector<Candidate> candidates(std::optional<uint64_t> fixedOfOneMore = std::nullopt) const;
  uint64_t bytesUnder(const fb::Plan &plan, std::optional<uint64_t> fixedOfOneMore) const;
  Status checkChoice(const fb::Plan &plan) const;
  const fb::Plan *fallbackFor(const fb::Plan &plan) const;
  Controlled *find(const Session &session) const;

  std::shared_ptr<Backend> backend_;
  EventListener listener_;
  double bandwidthShare_;
  BudgetPolicy budgetPolicy_;
  std::vector<const fb::Plan *> ranking_, byQuality_;
  CanaryGuard canary_;

  std::mutex tellMutex_; ///< held while the listener runs
  mutable std::mutex mutex_;
  std::condition_variable wake_;     ///< of the thread
  std::condition_variable answered_; ///< of who waits for it
  std::vector<std::unique_ptr<Controlled>> sessions_;
  std::map<const fb::Plan *, std::string> quarantined_; ///< and why
  bool budgetChanged_ = false;
  std::optional<Clock::time_point> askBudgetAgain_;
  bool stop_ = false;
  std::thread thread_;
};

} // namespace moeplan
