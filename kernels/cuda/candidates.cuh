// The tokens of the largest logits, for a sampler that needs no others.
#pragma once

#include "device.cuh"

namespace moeplan {

/// Larger for what a sampler prefers, were it not for ids: NaN counts as -inf, and zeros are equal.
__device__ inline uint32_t preference(float logit) {
  const uint32_t bits = __float_as_uint(logit != logit ? -INFINITY : logit + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/// The `wanted`-th largest of the keys of all threads, 8 bits at a time.
template <int kThreads> struct RadixSelect {
  static constexpr int kBuckets = 256;
  uint32_t histogram[kBuckets];
  uint32_t threshold; ///< it
  uint32_t ties;      ///< how many of those that equal it are among the wanted
  uint32_t tied;      ///< how many there are

  /// `each` calls what it is given for every key of the thread. There are at least `wanted`.
  template <typename Each> __device__ void find(uint32_t wanted, Each &&each) {
    __syncthreads();
    if (threadIdx.x == 0) {
      threshold = 0;
      ties = wanted;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int i = threadIdx.x; i < kBuckets; i += kThreads)
        histogram[i] = 0;
      __syncthreads();
      const uint32_t above = threshold, mask = shift == 24 ? 0u : ~0u << (shift + 8);
      each([&](uint32_t key) {
        if ((key & mask) == above)
          atomicAdd(&histogram[key >> shift & 255], 1u);
      });
      __syncthreads();
      if (threadIdx.x == 0) {
        uint32_t bucket = kBuckets - 1;
        for (; bucket > 0 && histogram[bucket] < ties; --bucket)
          ties -= histogram[bucket];
        threshold |= bucket << shift;
        tied = histogram[bucket];
      }
      __syncthreads();
    }
  }
};

/// The keys of a row that are a thread's: those of tokens threadIdx.x, + kThreads, ... In registers
/// where they fit there, else read again each time.
template <int kSize, int kThreads> struct ThreadKeys {
  static constexpr int kEach = (kSize + kThreads - 1) / kThreads;
  static constexpr bool kKept = kEach <= 32;
  const float *row;
  uint32_t kept[kKept ? kEach : 1];

  __device__ ThreadKeys(const float *row) : row(row) {
    if constexpr (kKept)
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        kept[j] = isThere(j) ? preference(row[token(j)]) : 0u;
  }
  __device__ static int token(int j) { return j * kThreads + int(threadIdx.x); }
  __device__ static bool isThere(int j) { return token(j) < kSize; }
  /// use(key, token), for those that are at least `bound`.
  template <typename Use> __device__ void each(uint32_t bound, Use &&use) const {
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (isThere(j))
        if (const uint32_t key = kKept ? kept[kKept ? j : 0] : preference(row[token(j)]);
            key >= bound)
          use(key, token(j));
  }
};

/// One block of threads, of the last token of a step whose logits are wanted. logits: float32
/// [max_tokens, vocab_size]; out [count], a power of two and at most `threads`, in a sampler's
/// order: the larger logit first, then the lower id; behind a smaller vocabulary -1.
template <class C>
__device__ void candidates(const moeplan_step *step, Binding<const float> logits,
                           Binding<moeplan_candidate> out) {
  constexpr int kCount = C::count, kSize = C::vocab_size, kThreads = C::threads;
  constexpr int kWanted = kCount < kSize ? kCount : kSize;
  static_assert(kCount <= kThreads && (kCount & (kCount - 1)) == 0);
  __shared__ RadixSelect<kThreads> select;
  __shared__ struct Entry {
    uint32_t key;
    int32_t token;
  } found[kCount];
  __shared__ uint32_t above, equal, inWarp[kThreads / kWarp];
  if (step->logits_begin >= step->token_count)
    return;
  const float *row = logits + int64_t(step->token_count - 1) * kSize;
  const ThreadKeys<kSize, kThreads> keys(row);
  for (int i = threadIdx.x; i < kCount; i += kThreads)
    found[i] = {0, -1};
  if (threadIdx.x == 0)
    above = equal = 0;
  // As many are at least what the wanted-th of the threads' largest is: few others need be counted.
  uint32_t largest = 0;
  keys.each(0, [&](uint32_t key, int) { largest = key > largest ? key : largest; });
  select.find(kWanted, [&](auto &&use) {
    if (keys.isThere(0))
      use(largest);
  });
  const uint32_t bound = select.threshold;
  select.find(kWanted, [&](auto &&use) { keys.each(bound, [&](uint32_t key, int) { use(key); }); });
  // In which order is all the same: they are sorted.
  const uint32_t threshold = select.threshold, ties = select.ties, firstTie = kWanted - ties;
  const bool allTies = ties == select.tied;
  keys.each(threshold, [&](uint32_t key, int token) {
    if (key > threshold)
      found[atomicAdd(&above, 1u)] = {key, token};
    else if (allTies)
      found[firstTie + atomicAdd(&equal, 1u)] = {key, token};
  });
  if (!allTies) { // those with the lowest ids
    uint32_t passed = 0;
    for (int first = 0; first < kSize && passed < ties; first += kThreads) {
      const int token = first + int(threadIdx.x);
      const bool tie = token < kSize && preference(row[token]) == threshold;
      const uint32_t all = __ballot_sync(~0u, tie);
      if (lane() == 0)
        inWarp[warp()] = uint32_t(__popc(all));
      __syncthreads();
      uint32_t rank = passed + uint32_t(__popc(all & ((1u << lane()) - 1)));
      for (int w = 0; w < kThreads / kWarp; ++w) {
        rank += w < warp() ? inWarp[w] : 0u;
        passed += inWarp[w];
      }
      if (tie && rank < ties)
        found[firstTie + rank] = {threshold, token};
      __syncthreads();
    }
  }
  __syncthreads();
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
