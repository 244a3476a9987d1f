// The experts of up to 8 tokens at a time: gate and up with SiLU in one launch, down with the
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

/// The first slot of begin .. end - 1 whose token is `token` or behind it: an expert's slots are in
/// the order of their tokens.
__device__ inline uint32_t firstSlotFrom(const uint32_t *slotToken, uint32_t begin, uint32_t end,
                                         uint32_t token) {
  while (begin < end) {
    const uint32_t middle = (begin + end) / 2;
    if (slotToken[middle] < token)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

/// A block of threads: 32 rows of one routed expert.
template <class C>
__device__ void experts_gate_up(const moeplan_step *, Binding<const float> x,
                                Binding<const float> scale, Binding<const moeplan_expert> experts,
                                Binding<const uint32_t> expertBegin,
                                Binding<const uint32_t> slotToken, Binding<float> h) {
  constexpr int kFeatures = C::features, kRows = C::intermediate;
  constexpr int kRowBlocks = (kRows + kRowsPerWarp - 1) / kRowsPerWarp;
  using Both = Product<C::threads, kFeatures, C::normalize != 0, C::max_tokens == 1, 2>;
  __shared__ typename Both::Shared shared;
  Both product{shared};
  const int firstRow = int(blockIdx.x) % kRowBlocks * kRowsPerWarp;
  const int tile = firstRow / MOEPLAN_TILE_ROWS;
  const ExpertSlots slots(expertBegin, C::num_experts, int(blockIdx.x) / kRowBlocks);
  if (slots.expert < 0)
    return;
  const moeplan_expert &expert = experts[slots.expert];
  for (uint32_t first = slots.begin; first < slots.end; first += Both::kTokens) {
    const uint32_t slot = first + (Both::kTokens == 1 ? 0 : lane() / 4);
    const float *row = slot < slots.end ? x + int64_t(slotToken[slot]) * kFeatures : nullptr;
    product.template multiply<C::formats>(0, expert.w1, expert.w1_format, tile, tile + 1, kRows,
                                          row, scale);
    product.template multiply<C::formats>(1, expert.w3, expert.w3_format, tile, tile + 1, kRows,
                                          row, scale);
    __syncthreads();
    for (int i = threadIdx.x; i < Both::kSums; i += C::threads) {
      const int token = i % Both::kTokens, n = firstRow + i / Both::kTokens;
      if (first + token >= slots.end || n >= kRows)
        continue;
      const float factor = product.factor(token, C::epsilon);
      const float gate = product.sum(0, i) * factor, up = product.sum(1, i) * factor;
      h[int64_t(first + token) * kRows + n] = gate / (1.0f + __expf(-gate)) * up;
    }
    __syncthreads();
  }
}

/// A block of threads: 32 rows of all experts that are routed to by one of 8 tokens, in their
/// order.
template <class C>
__device__ void experts_down(const moeplan_step *step, Binding<const float> h,
                             Binding<const moeplan_expert> experts,
                             Binding<const uint32_t> expertBegin, Binding<const uint32_t> slotToken,
                             Binding<const float> slotWeight, Binding<float> y) {
  constexpr int kRows = C::features, kColumns = C::intermediate;
  constexpr int kRowBlocks = (kRows + kRowsPerWarp - 1) / kRowsPerWarp;
  using Down = Product<C::threads, kColumns, false, C::max_tokens == 1>;
  __shared__ typename Down::Shared shared;
  __shared__ float result[Down::kSums];
  Down product{shared};
  const int firstRow = int(blockIdx.x) % kRowBlocks * kRowsPerWarp;
  const int tile = firstRow / MOEPLAN_TILE_ROWS;
  const uint32_t firstToken = blockIdx.x / kRowBlocks * kProductTokens;
  if (firstToken >= step->token_count)
    return;
  for (int i = threadIdx.x; i < Down::kSums; i += C::threads)
    result[i] = 0;
  for (int index = 0; index < C::num_experts; ++index) {
    const ExpertSlots all(expertBegin, C::num_experts, index);
    if (all.expert < 0)
      break;
    uint32_t begin = all.begin, end = all.end;
    if (C::max_tokens > kProductTokens) {
      begin = firstSlotFrom(slotToken, all.begin, all.end, firstToken);
      end = firstSlotFrom(slotToken, begin, all.end, firstToken + kProductTokens);
      if (begin == end)
        continue;
    }
    const moeplan_expert &expert = experts[all.expert];
    const uint32_t slot = begin + (Down::kTokens == 1 ? 0 : lane() / 4);
    const float *row = slot < end ? h + int64_t(slot) * kColumns : nullptr;
    product.template multiply<C::formats>(0, expert.w2, expert.w2_format, tile, tile + 1, kRows,
                                          row, nullptr);
    __syncthreads();
    for (int i = threadIdx.x; i < Down::kSums; i += C::threads)
      if (const uint32_t slot = begin + i % Down::kTokens; slot < end)
        result[i / Down::kTokens * Down::kTokens + int(slotToken[slot] - firstToken)] +=
            slotWeight[slot] * product.sum(0, i);
    __syncthreads();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < Down::kSums; i += C::threads) {
    const uint32_t token = firstToken + i % Down::kTokens;
    const int n = firstRow + i / Down::kTokens;
    if (token < step->token_count && n < kRows) {
      float &target = y[int64_t(token) * kRows + n];
      target = (C::accumulate ? target : 0.0f) + result[i];
    }
  }
}

} // namespace moeplan
