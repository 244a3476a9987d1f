#include "runtime/session/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

namespace moeplan {
namespace {

constexpr float minusInfinity = -std::numeric_limits<float>::infinity();

Status outside(const char *name, double value, const char *range) {
  return invalidArgument(std::string(name) + " is " + std::to_string(value) + ", expected " +
                         range);
}

Status validate(const moeplan_sampler_options &options, uint32_t vocabSize) {
  if (vocabSize == 0 || vocabSize > uint32_t{std::numeric_limits<int32_t>::max()})
    return outside("vocab_size", vocabSize, "1 to 2147483647");
  if (!(options.temperature >= 0) || std::isinf(options.temperature))
    return outside("temperature", options.temperature, "0 or more");
  if (!(options.top_p > 0 && options.top_p <= 1))
    return outside("top_p", options.top_p, "more than 0 and at most 1");
  if (!(options.repetition_penalty > 0) || std::isinf(options.repetition_penalty))
    return outside("repetition_penalty", options.repetition_penalty, "more than 0");
  return {};
}

/// Larger logit first, then lower id. A total order: what is kept and in which order does not
/// depend on how the standard library partitions and sorts.
constexpr auto isBefore = [](const auto &a, const auto &b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
};

} // namespace

RandomGenerator::RandomGenerator(uint64_t seed) {
  for (uint64_t &word : state_) { // splitmix64
    seed += 0x9e3779b97f4a7c15;
    uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

uint64_t RandomGenerator::next() {
  const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

double RandomGenerator::nextUniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

Result<Sampler> Sampler::create(const moeplan_sampler_options &options, uint32_t vocabSize) {
  MOEPLAN_TRY(validate(options, vocabSize));
  return Sampler(options, vocabSize);
}

Sampler::Sampler(const moeplan_sampler_options &options, uint32_t vocabSize)
    : options_(options), random_(options.seed), lastSeen_(vocabSize, 0) {
  if (options_.temperature > 0)
    candidates_.resize(vocabSize);
  if (options_.repetition_penalty == 1)
    options_.repetition_window = 0;
}

void Sampler::observe(int32_t token) {
  if (token >= 0 && static_cast<size_t>(token) < lastSeen_.size())
    lastSeen_[static_cast<size_t>(token)] = ++observed_;
}

/// The logit, made less likely where the token is among the latest repetition_window: divided where
/// it is positive, multiplied where it is negative, once however often the token occurred (Keskar
/// et al., CTRL, arXiv 1909.05858, section 4.1; the treatment of negative logits is that of the
/// implementations since).
float Sampler::penalised(float logit, uint32_t token) const {
  if (std::isnan(logit))
    return minusInfinity;
  const uint64_t seen = lastSeen_[token];
  if (seen == 0 || observed_ - seen >= options_.repetition_window)
    return logit;
  return logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
}

int32_t Sampler::greedyToken(const float *logits) const {
  uint32_t best = 0;
  float bestLogit = minusInfinity;
  for (uint32_t token = 0; token < lastSeen_.size(); ++token) {
    if (const float logit = penalised(logits[token], token); logit > bestLogit) {
      best = token;
      bestLogit = logit;
    }
  }
  return static_cast<int32_t>(best);
}

int32_t Sampler::sample(const float *logits) {
  int32_t token = 0;
  if (options_.temperature > 0) {
    for (uint32_t id = 0; id < candidates_.size(); ++id)
      candidates_[id] = {penalised(logits[id], id), static_cast<int32_t>(id), 0};
    token = choose(candidates_.size());
  } else {
    token = greedyToken(logits);
  }
  observe(token);
  return token;
}

bool Sampler::samplesFrom(size_t count) const {
  const size_t wanted = options_.temperature > 0 ? options_.top_k : 1;
  if (wanted == 0 || wanted >= lastSeen_.size())
    return false;
  if (options_.repetition_window == 0)
    return wanted <= count;
  // The most that a window lowers are as many as it has tokens.
  return options_.repetition_penalty >= 1 && wanted <= count &&
         options_.repetition_window <= count - wanted;
}

int32_t Sampler::sample(std::span<const moeplan_candidate> candidates) {
  int32_t token = 0;
  if (options_.temperature > 0) {
    for (size_t i = 0; i < candidates.size(); ++i) {
      const auto [logit, id] = candidates[i];
      candidates_[i] = {penalised(logit, static_cast<uint32_t>(id)), id, 0};
    }
    token = choose(candidates.size());
  } else {
    Candidate best{minusInfinity, 0, 0};
    for (const auto &[logit, id] : candidates)
      if (const Candidate other{penalised(logit, static_cast<uint32_t>(id)), id, 0};
          other.logit > minusInfinity && isBefore(other, best))
        best = other;
    token = best.token;
  }
  observe(token);
  return token;
}

/// Of the first `count` candidates.
int32_t Sampler::choose(size_t count) {
  count = keepTopK(count);
  const std::span kept(candidates_.data(), count);
  const float largest =
      std::max_element(kept.begin(), kept.end(), [](const Candidate &a, const Candidate &b) {
        return a.logit < b.logit;
      })->logit;
  if (largest == minusInfinity)
    return 0;
  // The largest logit is subtracted before the division, so that no temperature overflows, and
  // compared first, so that infinities leave no NaN.
  for (Candidate &candidate : kept)
    candidate.weight =
        candidate.logit == largest
            ? 1.0
            : std::exp((double{candidate.logit} - double{largest}) / double{options_.temperature});
  return draw(kept.first(keepNucleus(count)));
}

/// Moves the top_k of the first `count` candidates to the front, in order, and returns how many
/// there are.
size_t Sampler::keepTopK(size_t count) {
  const size_t wanted = options_.top_k;
  if (wanted == 0 || wanted >= lastSeen_.size())
    return count;
  const auto end = candidates_.begin() + static_cast<ptrdiff_t>(wanted);
  std::nth_element(candidates_.begin(), end, candidates_.begin() + static_cast<ptrdiff_t>(count),
                   isBefore);
  std::sort(candidates_.begin(), end, isBefore);
  return wanted;
}

/// Of the first `count` candidates, the smallest set whose probability is at least top_p, most
/// likely first (Holtzman et al., arXiv 1904.09751, section 3.1). Returns how many those are.
size_t Sampler::keepNucleus(size_t count) {
  if (options_.top_p >= 1)
    return count;
  double total = 0;
  for (size_t i = 0; i < count; ++i)
    total += candidates_[i].weight;
  const double wanted = total * double{options_.top_p};

  // The nucleus is mostly small, so a growing prefix is put in order instead of the vocabulary.
  const auto begin = candidates_.begin();
  double mass = 0;
  for (size_t sorted = 0, next = 64; sorted < count; next *= 4) {
    const size_t end = std::min(next, count);
    std::nth_element(begin + static_cast<ptrdiff_t>(sorted),
                     begin + static_cast<ptrdiff_t>(end - 1), begin + static_cast<ptrdiff_t>(count),
                     isBefore);
    std::sort(begin + static_cast<ptrdiff_t>(sorted), begin + static_cast<ptrdiff_t>(end),
              isBefore);
    for (; sorted < end; ++sorted) {
      mass += candidates_[sorted].weight;
      if (mass >= wanted)
        return sorted + 1;
    }
  }
  return count; // rounding kept the sum under `wanted`
}

int32_t Sampler::draw(std::span<const Candidate> kept) {
  double total = 0;
  for (const Candidate &candidate : kept)
    total += candidate.weight;
  const double target = random_.nextUniform() * total;
  double sum = 0;
  int32_t token = kept.front().token;
  for (const Candidate &candidate : kept) {
    if (candidate.weight == 0)
      continue;
    token = candidate.token; // the last one where rounding keeps the sum under the target
    sum += candidate.weight;
    if (sum > target)
      break;
  }
  return token;
}

} // namespace moeplan
