// Chooses the next token from logits.
#pragma once

#include "kernel_abi.h"
#include "runtime/support/status.h"

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace moeplan {

/// xoshiro256** 1.0 of Blackman and Vigna (arXiv 1805.01407), seeded by splitmix64. The project's
/// own, so that a seed means the same draws with every standard library.
class RandomGenerator {
public:
  explicit RandomGenerator(uint64_t seed);
  uint64_t next();
  /// In [0, 1), a multiple of 2^-53.
  double nextUniform();

private:
  std::array<uint64_t, 4> state_;
};

/// The sampler of moeplan_sampler_options: repetition penalty, temperature, top-k, top-p, in this
/// order. Same options, seed and logits: same tokens. For one thread at a time.
class Sampler {
public:
  /// Allocates all it will ever need: 24 bytes per token of the vocabulary. `options.struct_size`
  /// is not looked at. Errors: MOEPLAN_INVALID_ARGUMENT for a value outside the range that the
  /// header states.
  static Result<Sampler> create(const moeplan_sampler_options &options, uint32_t vocabSize);

  size_t vocabSize() const { return lastSeen_.size(); }

  /// Counts `token` as one of the latest for the repetition penalty; ids that are out of range are
  /// ignored.
  void observe(int32_t token);

  /// Draws a token from `logits` (float32 [vocabSize]) and observes it. A NaN counts as minus
  /// infinity; where no logit is above that, the token is 0. Does not allocate.
  int32_t sample(const float *logits);

  /// Whether the `count` largest logits are all that sample() looks at: it is greedy or keeps
  /// top-k, and no penalty raises a logit, or lowers so many that those behind them count.
  bool samplesFrom(size_t count) const;
  /// The same token, from the largest logits in their order (moeplan_candidate), where
  /// samplesFrom(candidates.size()).
  int32_t sample(std::span<const moeplan_candidate> candidates);

private:
  struct Candidate {
    float logit;
    int32_t token;
    double weight; // exp((logit - largest) / temperature): a probability, but for the sum
  };

  Sampler(const moeplan_sampler_options &options, uint32_t vocabSize);

  float penalised(float logit, uint32_t token) const;
  int32_t greedyToken(const float *logits) const;
  int32_t choose(size_t count);
  size_t keepTopK(size_t count);
  size_t keepNucleus(size_t count);
  int32_t draw(std::span<const Candidate> kept);

  moeplan_sampler_options options_;
  RandomGenerator random_;
  std::vector<Candidate> candidates_; // [vocabSize]; none for a greedy sampler
  std::vector<uint64_t> lastSeen_; // per token: value of observed_ after it was last seen; 0: never
  uint64_t observed_ = 0;          // tokens observed
};

} // namespace moeplan
