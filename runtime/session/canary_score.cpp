#include "runtime/session/canary_score.h"

#include "runtime/support/hash.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moeplan {

namespace {

/// Calls `row(position, logits, logProbabilities)` for each of the n positions in turn.
template <typename Row>
Status forEachRow(Session &session, std::span<const int32_t> tokens,
                  const std::function<bool()> &keepGoing, Row &&row) {
  if (tokens.size() < 2)
    return invalidArgument("a canary of fewer than two tokens says nothing");
  const std::span<const int32_t> input = tokens.first(tokens.size() - 1);
  const size_t vocabSize = session.vocabSize();
  for (int32_t token : tokens)
    if (token < 0 || static_cast<size_t>(token) >= vocabSize)
      return invalidArgument("a canary's token has id " + std::to_string(token) +
                             ", the vocabulary has " + std::to_string(vocabSize));
  std::vector<double> logProbabilities(vocabSize);
  session.reset();
  for (size_t done = 0; done < input.size();) {
    if (keepGoing && !keepGoing())
      return Status(MOEPLAN_CANCELLED, "the check was cancelled");
    const auto chunk = input.subspan(done, std::min(kCanaryChunk, input.size() - done));
    MOEPLAN_TRY(session.append(chunk, chunk.size()));
    for (size_t i = 0; i < chunk.size(); ++i) {
      const std::span<const float> logits(session.logits(i), vocabSize);
      if (!logSoftmax(logits, logProbabilities))
        return Status(MOEPLAN_INTERNAL,
                      "the canary has no finite likelihood at token " + std::to_string(done + i));
      row(done + i, logits, std::span<const double>(logProbabilities));
    }
    done += chunk.size();
  }
  return {};
}

} // namespace

bool logSoftmax(std::span<const float> logits, std::span<double> out) {
  const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
  const double largest = *most;
  double sum = 0;
  for (float logit : logits)
    sum += std::exp(double(logit) - largest);
  const double offset = largest + std::log(sum);
  for (size_t i = 0; i < logits.size(); ++i)
    out[i] = double(logits[i]) - offset;
  return std::isfinite(offset) && std::isfinite(*least);
}

double lumpedDivergence(std::span<const uint32_t> tokens, std::span<const float> logProbabilities,
                        std::span<const double> ours) {
  // What is left for all others; sums of rounded numbers may come to 1 and more.
  constexpr double kLeast = 1e-12;
  double divergence = 0, p = 0, q = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double reference = logProbabilities[i], our = ours[tokens[i]];
    divergence += std::exp(reference) * (reference - our);
    p += std::exp(reference);
    q += std::exp(our);
  }
  if (tokens.size() == ours.size())
    return divergence;
  const double restP = std::max(1 - p, kLeast), restQ = std::max(1 - q, kLeast);
  return divergence + restP * std::log(restP / restQ);
}

Result<CanaryScore> scoreCanary(Session &session, std::span<const int32_t> tokens,
                                const CanaryReference *reference,
                                const std::function<bool()> &keepGoing) {
  CanaryScore score;
  Hasher hasher;
  double divergence = 0;
  MOEPLAN_TRY(forEachRow(
      session, tokens, keepGoing,
      [&](size_t position, std::span<const float> logits, std::span<const double> ours) {
        hasher.update(std::as_bytes(logits));
        score.logLikelihoods.push_back(static_cast<float>(ours[size_t(tokens[position + 1])]));
        if (reference)
          divergence += lumpedDivergence(
              reference->tokens.subspan(position * reference->top, reference->top),
              reference->logProbabilities.subspan(position * reference->top, reference->top), ours);
      }));
  score.digest = hasher.digest();
  score.divergence = divergence / double(tokens.size() - 1);
  return score;
}

Result<CanaryReferenceData> makeCanaryReference(Session &session, std::span<const int32_t> tokens) {
  CanaryReferenceData data;
  data.top = std::min(kCanaryTop, session.vocabSize());
  std::vector<uint32_t> ids(session.vocabSize());
  std::iota(ids.begin(), ids.end(), 0);
  MOEPLAN_TRY(forEachRow(
      session, tokens, {},
      [&](size_t position, std::span<const float>, std::span<const double> ours) {
        data.logLikelihoods.push_back(static_cast<float>(ours[size_t(tokens[position + 1])]));
        std::partial_sort(ids.begin(), ids.begin() + data.top, ids.end(),
                          [&](uint32_t a, uint32_t b) {
                            return ours[a] > ours[b] || (ours[a] == ours[b] && a < b);
                          });
        for (uint32_t i = 0; i < data.top; ++i) {
          data.tokens.push_back(ids[i]);
          data.logProbabilities.push_back(static_cast<float>(ours[ids[i]]));
        }
      }));
  return data;
}

} // namespace moeplan
