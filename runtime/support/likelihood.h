// How likely a model finds a token.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

namespace moeplan {

/// -log softmax(logits)[token], in nats.
inline double negativeLogLikelihood(std::span<const float> logits, int32_t token) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits)
    sum += std::exp(double{logit} - largest);
  return std::log(sum) + largest - double{logits[static_cast<size_t>(token)]};
}

/// exp of the mean loss of log-likelihood, minus 1: 0.01 is a perplexity that is 1 % higher. Of the
/// same tokens, at least one.
inline double perplexityIncrease(std::span<const float> reference,
                                 std::span<const float> logLikelihoods) {
  double loss = 0;
  for (size_t i = 0; i < reference.size(); ++i)
    loss += double{reference[i]} - double{logLikelihoods[i]};
  return std::expm1(loss / static_cast<double>(reference.size()));
}

} // namespace moeplan
