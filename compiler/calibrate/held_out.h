// Scoring a session against the unquantised model on windows that calibration did not see.
#pragma once

#include "runtime/session/session.h"
#include "runtime/support/status.h"

#include <cstdint>
#include <span>
#include <vector>

namespace moeplan::compiler {

/// Windows of a text: BOS and context - 1 tokens each, one after the other.
struct TextWindows {
  uint32_t context = 0;
  std::vector<std::vector<int32_t>> windows; ///< [..][context], BOS first
};

/// A score, in nats per token; the error is that of the mean over windows.
struct HeldOutScore {
  double divergence = 0;    ///< Kullback-Leibler divergence of the reference from the session
  double increase = 0;      ///< of the negative log-likelihood
  double standardError = 0; ///< of `increase`
};

/// Keeps the reference's log-probabilities: windows * context * vocab_size * 4 bytes.
class HeldOut {
public:
  /// Runs `session`, which is the reference, over `windows`.
  static Result<HeldOut> create(Session &session, TextWindows windows, uint32_t vocabSize);
  /// Runs `session` over them again.
  Result<HeldOutScore> score(Session &session) const;
  /// Of the reference, in nats per token.
  double negativeLogLikelihood() const;

private:
  HeldOut(TextWindows windows, uint32_t vocabSize)
      : windows_(std::move(windows)), vocabSize_(vocabSize) {}

  TextWindows windows_;
  uint32_t vocabSize_;
  std::vector<float> logProbabilities_; ///< [windows][context - 1][vocab_size]
};

} // namespace moeplan::compiler
