#include "compiler/calibrate/held_out.h"

#include <algorithm>
#include <cmath>
#include <string>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Logits to log-probabilities; false where they are not finite.
bool logSoftmax(const float *logits, uint32_t count, float *out) {
  const float largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (uint32_t i = 0; i < count; ++i)
    sum += double(std::exp(logits[i] - largest));
  const float offset = largest + float(std::log(sum));
  for (uint32_t i = 0; i < count; ++i)
    out[i] = logits[i] - offset;
  return std::isfinite(offset);
}

/// Runs one window; row i of the session's logits then predicts token i + 1.
Status runWindow(Session &session, const std::vector<int32_t> &window) {
  session.reset();
  return session.append({window.data(), window.size() - 1}, window.size() - 1);
}

} // namespace

Result<HeldOut> HeldOut::create(Session &session, TextWindows windows, uint32_t vocabSize) {
  HeldOut heldOut(std::move(windows), vocabSize);
  const uint64_t rows = heldOut.windows_.context - 1;
  heldOut.logProbabilities_.resize(heldOut.windows_.windows.size() * rows * vocabSize);
  float *out = heldOut.logProbabilities_.data();
  for (const std::vector<int32_t> &window : heldOut.windows_.windows) {
    MOEPLAN_TRY(runWindow(session, window));
    for (uint64_t row = 0; row < rows; ++row, out += vocabSize)
      if (!logSoftmax(session.logits(row), vocabSize, out))
        return invalidArgument("the model gives no finite likelihoods on the calibration text");
  }
  return heldOut;
}

Result<HeldOutScore> HeldOut::score(Session &session) const {
  const uint64_t rows = windows_.context - 1, count = windows_.windows.size();
  std::vector<float> ours(vocabSize_);
  std::vector<double> increases;
  double divergence = 0;
  const float *reference = logProbabilities_.data();
  for (const std::vector<int32_t> &window : windows_.windows) {
    MOEPLAN_TRY(runWindow(session, window));
    double increase = 0;
    for (uint64_t row = 0; row < rows; ++row, reference += vocabSize_) {
      if (!logSoftmax(session.logits(row), vocabSize_, ours.data()))
        return invalidArgument("a quantised weight leaves no finite likelihoods");
      const auto token = static_cast<size_t>(window[row + 1]);
      increase += double(reference[token]) - double(ours[token]);
      double sum = 0;
      for (uint32_t i = 0; i < vocabSize_; ++i)
        sum += double(std::exp(reference[i]) * (reference[i] - ours[i]));
      divergence += sum;
    }
    increases.push_back(increase / double(rows));
  }
  HeldOutScore score;
  score.divergence = divergence / double(count * rows);
  for (double increase : increases)
    score.increase += increase / double(count);
  double squares = 0;
  for (double increase : increases)
    squares += (increase - score.increase) * (increase - score.increase);
  if (count > 1)
    score.standardError = std::sqrt(squares / double(count - 1) / double(count));
  return score;
}

double HeldOut::negativeLogLikelihood() const {
  const uint64_t rows = windows_.context - 1;
  const float *reference = logProbabilities_.data();
  double sum = 0;
  for (const std::vector<int32_t> &window : windows_.windows)
    for (uint64_t row = 0; row < rows; ++row, reference += vocabSize_)
      sum -= double(reference[window[row + 1]]);
  return sum / double(rows * windows_.windows.size());
}
