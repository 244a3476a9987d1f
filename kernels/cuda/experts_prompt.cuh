// The experts of a prompt: of each, tiles of the tokens that are routed to it. As experts.cuh,
// h[s] = silu(w1 x) * (w3 x) of the token of slot s; z[s] = w2 h[s]; y[t] += the weighted sum over
// the slots of token t, in the order of experts.
#pragma once

#include "experts.cuh"
#include "linear_prompt.cuh"

namespace moeplan {

/// The slots of one tile of at most kTokens tokens of one expert; none behind the last.
template <int kTokens> struct ExpertTile {
  int expert = -1;
  uint32_t begin = 0, end = 0;

  /// Tiles that `slots` (token, expert) pairs can take.
  static constexpr int mostTiles(int slots, int experts) {
    return slots / kTokens + (experts < slots ? experts : slots);
  }

  __device__ ExpertTile(const uint32_t *expertBegin, int numExperts, int index) {
    for (int e = 0; e < numExperts && expert < 0; ++e) {
      const int slots = int(expertBegin[e + 1] - expertBegin[e]);
      const int tiles = (slots + kTokens - 1) / kTokens;
      if (index < tiles) {
        expert = e;
        begin = expertBegin[e] + index * kTokens;
        end = begin + kTokens < expertBegin[e + 1] ? begin + kTokens : expertBegin[e + 1];
      }
      index -= tiles;
    }
  }
};

/// A block of threads: threads / 2 rows of w1 and the same of w3 of one expert for a tile of its
/// tokens. x: bf16 rows of tokens, h: bf16 rows of slots (rounded.cuh).
template <class C>
__device__ void experts_gate_up_prompt(const moeplan_step *, Binding<const uint16_t> x,
                                       Binding<const moeplan_expert> experts,
                                       Binding<const uint32_t> expertBegin,
                                       Binding<const uint32_t> slotToken, Binding<uint16_t> h) {
  constexpr int kRows = C::intermediate, kStride = roundedColumns(kRows);
  constexpr int kTokens = C::tile_tokens, kHalf = C::threads / 2;
  constexpr int kTiles = ExpertTile<kTokens>::mostTiles(C::max_tokens * C::top_k, C::num_experts);
  using Product = Matrix<C::threads, C::features, kTokens>;
  __shared__ union {
    typename Product::Shared product;
    float up[kTokens][kHalf]; ///< sums of w3, by register and lane
  } shared;
  const ExpertTile<kTokens> slots(expertBegin, C::num_experts, int(blockIdx.x) % kTiles);
  if (slots.expert < 0)
    return;
  const moeplan_expert &expert = experts[slots.expert];
  const bool isUp = warp() >= kHalf / kWarp;
  const int position = int(threadIdx.x) % kHalf;
  const int firstRow = int(blockIdx.x) / kTiles * kHalf + position / kWarp * kRowsPerWarp;
  const int tile = firstRow / MOEPLAN_TILE_ROWS;
  MatrixSums<kTokens> sums;
  Product{shared.product, x}.template multiply<C::formats>(
      isUp ? expert.w3 : expert.w1, isUp ? expert.w3_format : expert.w1_format, tile, tile + 1,
      kRows,
      [&](int i) { return slots.begin + i < slots.end ? int(slotToken[slots.begin + i]) : -1; },
      sums);
  const int row = firstRow + lane() / 4 * 4;
  if (isUp)
#pragma unroll
    for (int i = 0; i < kTokens; ++i)
      shared.up[i][position] = sums.at(i / 8, i / 2 % 4, i % 2);
  __syncthreads();
  if (isUp || row >= kStride)
    return;
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n)
    for (int i = 0; i < 2; ++i) {
      const uint32_t slot = slots.begin + 8 * n + 2 * (lane() % 4) + i;
      float four[4];
      for (int r = 0; r < 4; ++r) {
        const float gate = sums.at(n, r, i);
        four[r] = row + r < kRows
                      ? gate / (1.0f + __expf(-gate)) * shared.up[8 * n + 2 * r + i][position]
                      : 0.0f;
      }
      if (slot < slots.end)
        storeRounded(h + int64_t(slot) * kStride + row, four);
    }
}

/// A block of threads: as many rows of w2 of one expert for a tile of its tokens. z float32
/// [max_tokens * top_k, features].
template <class C>
__device__ void experts_down_prompt(const moeplan_step *, Binding<const uint16_t> h,
                                    Binding<const moeplan_expert> experts,
                                    Binding<const uint32_t> expertBegin, Binding<float> z) {
  constexpr int kRows = C::features, kTokens = C::tile_tokens;
  constexpr int kTiles = ExpertTile<kTokens>::mostTiles(C::max_tokens * C::top_k, C::num_experts);
  using Product = Matrix<C::threads, C::intermediate, kTokens>;
  __shared__ typename Product::Shared shared;
  const ExpertTile<kTokens> slots(expertBegin, C::num_experts, int(blockIdx.x) % kTiles);
  if (slots.expert < 0)
    return;
  const moeplan_expert &expert = experts[slots.expert];
  const int firstRow = int(blockIdx.x) / kTiles * C::threads + warp() * kRowsPerWarp;
  const int tile = firstRow / MOEPLAN_TILE_ROWS;
  MatrixSums<kTokens> sums;
  Product{shared, h}.template multiply<C::formats>(
      expert.w2, expert.w2_format, tile, tile + 1, kRows,
      [&](int i) { return slots.begin + i < slots.end ? int(slots.begin) + i : -1; }, sums);
  const int row = firstRow + lane() / 4 * 4;
  sums.each([&](int i, const float(&four)[4]) {
    if (slots.begin + i < slots.end)
      storeFour<kRows, false>(z + int64_t(slots.begin + i) * kRows, row, four);
  });
}

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

/// y[t] += the sum of weight_s * z[s] over the slots of token t. A block of threads is a token.
template <class C>
__device__ void combine_experts(const moeplan_step *step, Binding<const float> z,
                                Binding<const uint32_t> expertBegin,
                                Binding<const uint32_t> slotToken, Binding<const float> slotWeight,
                                Binding<float> y) {
  constexpr uint32_t kNone = ~0u;
  __shared__ uint32_t slotOf[C::num_experts];
  const uint32_t token = blockIdx.y;
  if (token >= step->token_count)
    return;
  for (int e = threadIdx.x; e < C::num_experts; e += C::threads) {
    const uint32_t end = expertBegin[e + 1];
    const uint32_t slot = firstSlotFrom(slotToken, expertBegin[e], end, token);
    slotOf[e] = slot < end && slotToken[slot] == token ? slot : kNone;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < C::features; i += C::threads) {
    float &target = y[int64_t(token) * C::features + i];
    float sum = 0;
    for (int e = 0; e < C::num_experts; ++e)
      if (const uint32_t slot = slotOf[e]; slot != kNone)
        sum += slotWeight[slot] * z[int64_t(slot) * C::features + i];
    target = (C::accumulate ? target : 0.0f) + sum;
  }
}

} // namespace moeplan
