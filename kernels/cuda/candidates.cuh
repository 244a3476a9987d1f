// The tokens of the largest logits, for a sampler that needs no others.
#pragma once

#include "device.cuh"

namespace moeplan {

/// Larger for what a sampler prefers, were it not for ids: NaN counts as -inf, and zeros are equal.
__device__ inline uint32_t preference(float logit) {
  const uint32_t bits = __float_as_uint(logit != logit ? -INFINITY : logit + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/// Finds the preference of the `wanted`-th of `size` logits, the largest first, 8 bits at a time,
/// and how many of those that have it are among the wanted.
template <int kThreads> struct RadixSelect {
  static constexpr int kBuckets = 256;
  uint32_t histogram[kBuckets];
  uint32_t threshold, ties;

  __device__ void find(const float *logits, int size, uint32_t wanted) {
    if (threadIdx.x == 0) {
      threshold = 0;
      ties = wanted;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int i = threadIdx.x; i < kBuckets; i += kThreads)
        histogram[i] = 0;
      __syncthreads();
      const uint32_t above = threshold, mask = shift == 24 ? 0u : ~0u << (shift + 8);
      for (int i = threadIdx.x; i < size; i += kThreads)
        if (const uint32_t key = preference(logits[i]); (key & mask) == above)
          atomicAdd(&histogram[key >> shift & 255], 1u);
      __syncthreads();
      if (threadIdx.x == 0) {
        uint32_t bucket = kBuckets - 1;
        for (; bucket > 0 && histogram[bucket] < ties; --bucket)
          ties -= histogram[bucket];
        threshold |= bucket << shift;
      }
      __syncthreads();
    }
  }
};

/// One block of threads, of the last token of a step whose logits are wanted. logits: float32
/// [max_tokens, vocab_size]; out [count], a power of two, in a sampler's order: the larger logit
/// first, then the lower id; behind a smaller vocabulary -1.
template <class C>
__device__ void candidates(const moeplan_step *step, Binding<const float> logits,
                           Binding<moeplan_candidate> out) {
  constexpr int kCount = C::count, kSize = C::vocab_size;
  constexpr int kWanted = kCount < kSize ? kCount : kSize;
  __shared__ RadixSelect<C::threads> select;
  __shared__ struct Entry {
    uint32_t key;
    int32_t token;
  } found[kCount];
  __shared__ uint32_t above, ties[C::threads / kWarp];
  if (step->logits_begin >= step->token_count)
    return;
  const float *row = logits + int64_t(step->token_count - 1) * kSize;
  select.find(row, kSize, kWanted);
  for (int i = threadIdx.x; i < kCount; i += C::threads)
    found[i] = {0, -1};
  if (threadIdx.x == 0)
    above = 0;
  __syncthreads();
  // In which order is all the same: they are sorted. Of the ties, those with the lowest ids.
  uint32_t passed = 0; // ties in front
  for (int first = 0; first < kSize; first += C::threads) {
    const int i = first + int(threadIdx.x);
    const uint32_t key = i < kSize ? preference(row[i]) : 0u;
    if (i < kSize && key > select.threshold)
      found[atomicAdd(&above, 1u)] = {key, i};
    const bool tie = i < kSize && key == select.threshold;
    const uint32_t all = __ballot_sync(~0u, tie);
    if (lane() == 0)
      ties[warp()] = uint32_t(__popc(all));
    __syncthreads();
    uint32_t rank = passed + uint32_t(__popc(all & ((1u << lane()) - 1)));
    for (int w = 0; w < C::threads / kWarp; ++w) {
      rank += w < warp() ? ties[w] : 0u;
      passed += ties[w];
    }
    if (tie && rank < select.ties)
      found[kWanted - int(select.ties) + int(rank)] = {key, i};
    __syncthreads();
  }
  // Bitonic (Batcher 1968), by one warp.
  if (warp() > 0)
    return;
  auto isBefore = [](const Entry &a, const Entry &b) {
    return a.key > b.key || (a.key == b.key && uint32_t(a.token) < uint32_t(b.token));
  };
  for (int size = 2; size <= kCount; size *= 2)
    for (int distance = size / 2; distance > 0; distance /= 2) {
      for (int i = lane(); i < kCount; i += kWarp) {
        const int other = i ^ distance;
        if (other < i)
          continue;
        const Entry a = found[i], b = found[other];
        if (i & size ? isBefore(a, b) : isBefore(b, a)) {
          found[i] = b;
          found[other] = a;
        }
      }
      __syncwarp();
    }
  for (int i = lane(); i < kCount; i += kWarp)
    out[i] = {found[i].token < 0 ? -INFINITY : row[found[i].token], found[i].token};
}

} // namespace moeplan
