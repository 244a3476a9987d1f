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

} // namespace moeplan
