// out[t, h] = softmax(q[t, h] . K / sqrt(head_dim)) V over the positions up to the token's own,
// split over blocks of threads: each keeps a running maximum (Milakov and Gimelshein, arXiv
// 1805.02867), the last one of a head puts the splits together (flash decoding).
#pragma once

#include "device.cuh"

namespace moeplan {

/// A weighted sum of values in the making: out = sum / weight, weights relative to e^maximum.
template <int kElements> struct RunningSoftmax {
  float maximum = -INFINITY, weight = 0, sum[kElements] = {};

  /// The factor that what was summed up so far takes for a maximum of at least `other`.
  __device__ float raise(float other) {
    const float raised = fmaxf(maximum, other);
    // Neither has seen a position yet: nothing to scale.
    const float factor = raised == -INFINITY ? 1.0f : __expf(maximum - raised);
    maximum = raised;
    return factor;
  }
  __device__ void scale(float factor) {
    weight *= factor;
    for (int i = 0; i < kElements; ++i)
      sum[i] *= factor;
  }
};

/// The lanes that share a position: each has 8 elements of its head_dim.
template <int kDim> constexpr int lanesPerPosition() {
  int lanes = 1;
  while (lanes * 8 < kDim)
    lanes *= 2;
  return lanes;
}

/// 8 bf16 as float32.
__device__ inline void widen(const uint4 &v, float (&out)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

/// A block of threads: one token, one split of the positions of one key/value head, all query heads
/// that share it. partial float32 [max_tokens][num_heads][splits][head_dim + 2]: sums, maximum,
/// weight. counters uint32 [max_tokens][num_kv_heads], zeros.
template <class C>
__device__ void attention(const moeplan_step *step, Binding<const float> q,
                          Binding<const uint16_t> keys, Binding<const uint16_t> values,
                          Binding<float> partial, Binding<uint32_t> counters, Binding<float> out) {
  constexpr int kDim = C::head_dim, kKvHeads = C::num_kv_heads, kSplits = C::splits;
  constexpr int kGroup = C::num_heads / kKvHeads; // query heads that share keys and values
  constexpr int kHeads = kGroup < 4 ? kGroup : 4; // of them at a time
  constexpr int kLanes = lanesPerPosition<kDim>(), kPerWarp = kWarp / kLanes;
  constexpr int kStreams = C::threads / kLanes; // positions that the block works on at once
  constexpr int kUnroll = 4;
  static_assert(kDim % 8 == 0 && kLanes <= kWarp);
  __shared__ float sums[C::threads / kWarp][kPerWarp][kDim];
  __shared__ float maxima[kStreams], weights[kStreams];
  __shared__ bool last;

  const uint32_t token = blockIdx.y;
  if (token >= step->token_count)
    return;
  const int head = int(blockIdx.x) / kSplits, split = int(blockIdx.x) % kSplits;
  const int64_t seen = int64_t(step->position) + token + 1;
  const int64_t oldest =
      C::sliding_window > 0 && seen > C::sliding_window ? seen - C::sliding_window : 0;
  const int64_t each = (seen - oldest + kSplits - 1) / kSplits;
  const int64_t begin = oldest + split * each, end = begin + each < seen ? begin + each : seen;

  const int element = 8 * (lane() % kLanes), stream = int(threadIdx.x) / kLanes;
  const bool there = element < kDim;
  const int64_t row = (int64_t(head) * int64_t(step->kv_capacity)) * kDim + element;
  const float toLogit = rsqrtf(float(kDim));
  for (int firstHead = 0; firstHead < kGroup; firstHead += kHeads) {
    float query[kHeads][8];
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
      for (int i = 0; i < 8; ++i)
        query[h][i] =
            there && firstHead + h < kGroup
                ? q[(int64_t(token) * C::num_heads + head * kGroup + firstHead + h) * kDim +
                    element + i] *
                      toLogit
                : 0.0f;
    RunningSoftmax<8> state[kHeads];
    // All lanes of a warp make the same number of turns: they meet in the shuffles.
    for (int64_t turn = begin; turn < end; turn += kStreams * kUnroll) {
      uint4 key[kUnroll], value[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t position = turn + u * kStreams + stream;
        const bool load = there && position < end;
        key[u] = load ? *(const uint4 *)(keys + row + position * kDim) : uint4{};
        value[u] = load ? *(const uint4 *)(values + row + position * kDim) : uint4{};
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float logit[kUnroll], most = -INFINITY;
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          float elements[8], sum = 0;
          widen(key[u], elements);
          for (int i = 0; i < 8; ++i)
            sum += query[h][i] * elements[i];
          for (int mask = 1; mask < kLanes; mask *= 2)
            sum += __shfl_xor_sync(~0u, sum, mask);
          logit[u] = turn + u * kStreams + stream < end ? sum : -INFINITY;
          most = fmaxf(most, logit[u]);
        }
        state[h].scale(state[h].raise(most));
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          // Where nothing was seen yet the maximum is -inf, and so is the logit.
          const float weight = logit[u] == -INFINITY ? 0.0f : __expf(logit[u] - state[h].maximum);
          float elements[8];
          widen(value[u], elements);
          state[h].weight += weight;
          for (int i = 0; i < 8; ++i)
            state[h].sum[i] += weight * elements[i];
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (firstHead + h >= kGroup)
        continue;
      if (lane() % kLanes == 0) {
        maxima[stream] = state[h].maximum;
        weights[stream] = state[h].weight;
      }
      if (there)
        for (int i = 0; i < 8; ++i)
          sums[warp()][stream % kPerWarp][element + i] = state[h].sum[i];
      __syncthreads();
      const int64_t target = int64_t(token) * C::num_heads + head * kGroup + firstHead + h;
      for (int d = threadIdx.x; d < kDim; d += C::threads) {
        RunningSoftmax<1> all;
        for (int s = 0; s < kStreams; ++s) {
          all.scale(all.raise(maxima[s]));
          const float factor = maxima[s] == -INFINITY ? 0.0f : __expf(maxima[s] - all.maximum);
          all.weight += factor * weights[s];
          all.sum[0] += factor * sums[s / kPerWarp][s % kPerWarp][d];
        }
        float *mine = partial + (target * kSplits + split) * (kDim + 2);
        mine[d] = all.sum[0];
        if (d == 0) {
          mine[kDim] = all.maximum;
          mine[kDim + 1] = all.weight;
        }
      }
      __syncthreads();
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0)
    last = atomicAdd(&counters[token * kKvHeads + head], 1u) == kSplits - 1;
  __syncthreads();
  if (!last)
    return;
  __threadfence();
  for (int i = threadIdx.x; i < kGroup * kDim; i += C::threads) {
    const int64_t target = int64_t(token) * C::num_heads + head * kGroup + i / kDim;
    const float *splits = partial + target * kSplits * (kDim + 2);
    RunningSoftmax<1> all;
    for (int s = 0; s < kSplits; ++s, splits += kDim + 2) {
      all.scale(all.raise(splits[kDim]));
      const float factor = splits[kDim] == -INFINITY ? 0.0f : __expf(splits[kDim] - all.maximum);
      all.weight += factor * splits[kDim + 1];
      all.sum[0] += factor * splits[i % kDim];
    }
    out[target * kDim + i % kDim] = all.sum[0] / all.weight;
  }
}

} // namespace moeplan
