// Checks a plan that runs against what it gave when it was compiled, and against the reference.
#pragma once

#include "runtime/control/event.h"
#include "runtime/session/backend.h"
#include "runtime/session/canary_score.h"
#include "runtime/session/session.h"
#include "runtime/support/status.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace moeplan {

struct CanaryLimits {
  std::optional<double> maxPerplexityIncrease; ///< over the reference, as a fraction
  std::optional<double> maxDivergence;         ///< nats per token
  uint64_t everyTokens = 0; ///< in a session between two checks; 0: none of these
};

struct CheckResult {
  enum class Verdict {
    passed,
    changed, ///< not what the plan gave before: it, or the memory it is in, is damaged
    tooFar   ///< from the reference
  };
  const fb::Plan *plan = nullptr;
  Verdict verdict = Verdict::passed;
  double perplexityIncrease = 0, divergence = 0, seconds = 0;
  std::string reason; ///< where it did not pass
};

/// The same plan on the same kernels gives the same logits bit by bit, on any number of threads, so
/// that a check compares a digest of them: with the compiled one where that came from the same
/// kernels, else with that of the first check, whose likelihoods have to be near the compiled ones.
/// May be used from any number of threads; one check at a time.
class CanaryGuard {
public:
  explicit CanaryGuard(Backend &backend);

  /// Whether there is anything to check with.
  bool enabled() const;
  uint64_t everyTokens() const { return everyTokens_; }

  /// See Runtime::setCanary(). Runs `reference` once, on the host.
  Status set(std::span<const int32_t> tokens, const CanaryLimits &limits,
             const fb::Plan &reference);

  /// Runs the plan of `session` beside it. Errors: MOEPLAN_CANCELLED where `keepGoing` returned
  /// false; what else keeps it from being run.
  Result<CheckResult> check(Session &session, const std::function<bool()> &keepGoing);

private:
  void judgeSameness(const fb::Plan &plan, const CanaryScore &score, CheckResult &result);
  void judgeDistance(CheckResult &result) const;

  Backend &backend_;
  std::atomic<uint64_t> everyTokens_{0}; ///< that of the limits, where there are tokens
  mutable std::mutex mutex_;             ///< of what follows
  std::vector<int32_t> tokens_;
  CanaryLimits limits_;
  CanaryReferenceData reference_;
  bool compiled_ = false;                        ///< tokens and reference are the artifact's
  std::map<const fb::Plan *, uint64_t> digests_; ///< of the first check of each plan
};

} // namespace moeplan
