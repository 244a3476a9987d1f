// The experts of up to 8 tokens: gate and up with SiLU in one launch, down with the
// weighted sum in another. h[s] = silu(w1 x) * (w3 x) of the token of slot s,
// y[token] += weight_s * w2 h[s].
#pragma once

#include "product.cuh"

namespace moeplan {

/// The slots of the `index`-th expert that has any; none behind the last.
struct ExpertSlots {
  int expert = -1;
  uint32_t begin = 0, end = 0;

  __device__ ExpertSlots(const uint32_t *expertBegin, int numExperts, int index) {
    for (int e = 0; e < numExperts; ++e)
      if (expertBegin[e + 1] > expertBegin[e] && index-- == 0) {
        expert = e;
        begin = expertBegin[e];
        end = expertBegin[e + 1];
      }
  }
};

/// A block of threads: 32 rows of one routed expert.
template <class C>
__device__ void experts_gate_up(const moeplan_step *, Binding<const float> x,
                                Binding<const float> scale, Binding<const moeplan_expert> experts,
                                Binding<const uint32_t> expertBegin,
                                Binding<const uint32_t> slotToken, Binding<float> h) {
  constexpr int kFeatures = C::features, kRows = C::intermediate;
  constexpr int kRowBlocks = (kRows + kRowsPerWarp - 1) / kRowsPerWarp;
  using Both = Product<C::threads, kFeatures, C::normalize != 0, C::max_tokens, 2>;
  __shared__ typename Both::Shared shared;
  Both product{shared};
  const int firstRow = int(blockIdx.x) % kRowBlocks * kRowsPerWarp;
  const int tile = firstRow / MOEPLAN_TILE_ROWS;
  const ExpertSlots slots(expertBegin, C::num_experts, int(blockIdx.x) / kRowBlocks);
  if (slots.expert < 0)
    return;
  const moeplan_expert &expert = experts[slots.expert];
  const uint32_t own = slots.begin + Both::ownToken();
  const float *row = own < slots.end ? x + int64_t(slotToken[own]) * kFeatures : nullptr;
  product.template multiply<C::formats>(0, expert.w1, expert.w1_format, tile, tile + 1, kRows, row,
                                        scale);
  product.template multiply<C::formats>(1, expert.w3, expert.w3_format, tile, tile + 1, kRows, row,
                                        scale);
  __syncthreads();
  for (int i = threadIdx.x; i < Both::kSums; i += C::threads) {
    const uint32_t slot = slots.begin + i % Both::kTokens;
    const int n = firstRow + i / Both::kTokens;
    if (slot >= slots.end || n >= kRows)
      continue;
    const float factor = product.factor(i % Both::kTokens, C::epsilon);
    const float gate = product.sum(0, i) * factor, up = product.sum(1, i) * factor;
    h[int64_t(slot) * kRows + n] = gate / (1.0f + __expf(-gate)) * up;
  }
}

/// A block of threads: 32 rows of all experts that are routed to, in their order.
template <class C>
__device__ void experts_down(const moeplan_step *step, Binding<const float> h,
                             Binding<const moeplan_expert> experts,
                             Binding<const uint32_t> expertBegin, Binding<const uint32_t> slotToken,
                             Binding<const float> slotWeight, Binding<float> y) {
  constexpr int kRows = C::features, kColumns = C::intermediate;
  using Down = Product<C::threads, kColumns, false, C::max_tokens>;
  __shared__ typename Down::Shared shared;
  __shared__ float result[Down::kSums];
  Down product{shared};
  const int firstRow = int(blockIdx.x) * kRowsPerWarp, tile = firstRow / MOEPLAN_TILE_ROWS;
  for (int i = threadIdx.x; i < Down::kSums; i += C::threads)
    result[i] = 0;
  for (int index = 0; index < C::num_experts; ++index) {
    const ExpertSlots slots(expertBegin, C::num_experts, index);
    if (slots.expert < 0)
      break;
    const moeplan_expert &expert = experts[slots.expert];
    const uint32_t own = slots.begin + Down::ownToken();
    const float *row = own < slots.end ? h + int64_t(own) * kColumns : nullptr;
    product.template multiply<C::formats>(0, expert.w2, expert.w2_format, tile, tile + 1, kRows,
                                          row, nullptr);
    __syncthreads();
    for (int i = threadIdx.x; i < Down::kSums; i += C::threads)
      if (const uint32_t slot = slots.begin + i % Down::kTokens; slot < slots.end)
        result[i / Down::kTokens * Down::kTokens + int(slotToken[slot])] +=
            slotWeight[slot] * product.sum(0, i);
    __syncthreads();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < Down::kSums; i += C::threads) {
    const uint32_t token = i % Down::kTokens;
    const int n = firstRow + i / Down::kTokens;
    if (token < step->token_count && n < kRows) {
      float &target = y[int64_t(token) * kRows + n];
      target = (C::accumulate ? target : 0.0f) + result[i];
    }
  }
}

} // namespace moeplan
