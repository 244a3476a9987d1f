// What a plan makes of a canary: tokens with known likelihoods.
#pragma once

#include "runtime/session/session.h"
#include "runtime/support/status.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace moeplan {

/// Tokens of a canary that are run at a time. Part of what makes a digest repeatable.
inline constexpr size_t kCanaryChunk = 32;
/// How many of the reference's likeliest tokens are kept of each position, at most.
inline constexpr uint32_t kCanaryTop = 32;

/// What the reference, whose distance is measured, says of n tokens. Borrowed.
struct CanaryReference {
  std::span<const float> logLikelihoods;   ///< [n], of token i + 1
  uint32_t top = 0;                        ///< K
  std::span<const uint32_t> tokens;        ///< [n, K], the likeliest next ones, likeliest first
  std::span<const float> logProbabilities; ///< [n, K], of them
};

/// The same, owned.
struct CanaryReferenceData {
  std::vector<float> logLikelihoods;
  uint32_t top = 0;
  std::vector<uint32_t> tokens;
  std::vector<float> logProbabilities;

  CanaryReference view() const { return {logLikelihoods, top, tokens, logProbabilities}; }
};

struct CanaryScore {
  std::vector<float> logLikelihoods; ///< [n], of token i + 1, in nats
  uint64_t digest = 0;               ///< XXH3-64 of all rows of logits, float32
  /// Kullback-Leibler divergence of the plan from the reference, in nats per token: over the
  /// reference's K likeliest tokens, with all others as one, which is a lower bound of the whole.
  double divergence = 0;
};

/// Logits of a row to log-probabilities in double precision; false where they are not finite.
bool logSoftmax(std::span<const float> logits, std::span<double> out);

/// The divergence at one position, see CanaryScore; `tokens` and `logProbabilities` are the K of
/// the reference, `ours` [vocab_size] the log-probabilities of the plan.
double lumpedDivergence(std::span<const uint32_t> tokens, std::span<const float> logProbabilities,
                        std::span<const double> ours);

/// Resets `session` and runs it over `tokens` (n + 1 of them). `keepGoing`, which may be empty, is
/// asked before each chunk; false: MOEPLAN_CANCELLED. Without a reference the divergence is 0.
/// Errors: MOEPLAN_INVALID_ARGUMENT for fewer than two tokens; MOEPLAN_INTERNAL where likelihoods
/// are not finite.
Result<CanaryScore> scoreCanary(Session &session, std::span<const int32_t> tokens,
                                const CanaryReference *reference,
                                const std::function<bool()> &keepGoing);

/// What `session`, as the reference, says of them. Errors as above.
Result<CanaryReferenceData> makeCanaryReference(Session &session, std::span<const int32_t> tokens);

} // namespace moeplan
