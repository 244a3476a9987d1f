// Norm, scores of the experts, the top k of them with softmax over those, and the (token, expert)
// pairs sorted by expert.
#pragma once

#include "device.cuh"

namespace moeplan {

/// A block of threads: the experts of one token; the last one to finish sorts the pairs of all.
/// Bindings as kernels `router` and `group_by_expert` of kernels/cpu/kernels.h. counters
/// [counter_index] is 0.
template <class C>
__device__ void router(const moeplan_step *step, Binding<const float> x, Binding<const float> scale,
                       Binding<const float> gate, Binding<uint32_t> ids, Binding<float> weights,
                       Binding<uint32_t> counters, Binding<uint32_t> expertBegin,
                       Binding<uint32_t> slotToken, Binding<float> slotWeight) {
  constexpr int kFeatures = C::features, kExperts = C::num_experts, kTop = C::top_k;
  constexpr int kWarps = C::threads / kWarp;
  constexpr int kAtOnce = 8; // experts that are scored in one turn over the row
  __shared__ float sums[kWarps][kAtOnce + 1];
  __shared__ float scores[kExperts];
  __shared__ uint32_t begins[kExperts + 1];
  __shared__ bool last;
  const uint32_t token = blockIdx.y, live = step->token_count;
  if (token >= live)
    return;
  const float *row = x + int64_t(token) * kFeatures;
  for (int first = 0; first < kExperts; first += kAtOnce) {
    float sum[kAtOnce] = {}, square = 0;
    for (int column = threadIdx.x; column < kFeatures; column += C::threads) {
      const float value = row[column], scaled = C::normalize ? value * scale[column] : value;
      square += value * value;
      for (int e = 0; e < kAtOnce; ++e)
        if (first + e < kExperts)
          sum[e] += scaled * gate[int64_t(first + e) * kFeatures + column];
    }
    for (int mask = 1; mask < kWarp; mask *= 2) {
      square += __shfl_xor_sync(~0u, square, mask);
      for (int e = 0; e < kAtOnce; ++e)
        sum[e] += __shfl_xor_sync(~0u, sum[e], mask);
    }
    if (lane() == 0) {
      sums[warp()][kAtOnce] = square;
      for (int e = 0; e < kAtOnce; ++e)
        sums[warp()][e] = sum[e];
    }
    __syncthreads();
    if (threadIdx.x < kAtOnce && first + int(threadIdx.x) < kExperts) {
      float score = 0, squares = 0;
      for (int w = 0; w < kWarps; ++w) {
        score += sums[w][threadIdx.x];
        squares += sums[w][kAtOnce];
      }
      const float factor = C::normalize ? rsqrtf(squares / kFeatures + float(C::epsilon)) : 1.0f;
      scores[first + threadIdx.x] = score * factor;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    float chosen[kTop], total = 0;
    for (int k = 0; k < kTop; ++k) {
      int best = -1;
      for (int e = 0; e < kExperts; ++e) {
        bool taken = false;
        for (int j = 0; j < k; ++j)
          taken = taken || ids[token * kTop + j] == uint32_t(e);
        // Whatever the scores are, NaN included, some expert is taken.
        if (!taken && (best < 0 || scores[e] > scores[best]))
          best = e;
      }
      ids[token * kTop + k] = uint32_t(best);
      chosen[k] = __expf(scores[best] - scores[ids[token * kTop]]);
      total += chosen[k];
    }
    for (int k = 0; k < kTop; ++k)
      weights[token * kTop + k] = chosen[k] / total;
    __threadfence();
    last = C::max_tokens == 1 || atomicAdd(&counters[C::counter_index], 1u) == live - 1;
  }
  __syncthreads();
  if (!last)
    return;
  __threadfence();
  // Sorted stably: an expert's pairs are counted and then placed in order, by a warp of its own, 32
  // pairs at a time.
  const uint32_t pairs = live * kTop;
  auto eachPair = [&](auto &&use) {
    for (int e = warp(); e < kExperts; e += kWarps) {
      uint32_t count = 0;
      for (uint32_t first = 0; first < pairs; first += kWarp) {
        const uint32_t pair = first + lane();
        const bool mine = pair < pairs && ids[pair] == uint32_t(e);
        const uint32_t all = __ballot_sync(~0u, mine);
        if (mine)
          use(e, count + uint32_t(__popc(all & ((1u << lane()) - 1))), pair);
        count += uint32_t(__popc(all));
      }
      if (lane() == 0)
        use(e, count, ~0u);
      __syncwarp();
    }
  };
  eachPair([&](int e, uint32_t index, uint32_t pair) {
    if (pair == ~0u)
      begins[e + 1] = index;
  });
  __syncthreads();
  if (threadIdx.x == 0) {
    begins[0] = 0;
    for (int e = 0; e < kExperts; ++e)
      begins[e + 1] += begins[e];
  }
  __syncthreads();
  for (int e = threadIdx.x; e <= kExperts; e += C::threads)
    expertBegin[e] = begins[e];
  eachPair([&](int e, uint32_t index, uint32_t pair) {
    if (pair == ~0u)
      return;
    slotToken[begins[e] + index] = pair / kTop;
    slotWeight[begins[e] + index] = weights[pair];
  });
}

} // namespace moeplan
