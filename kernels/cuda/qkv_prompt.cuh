// The projections of attention for the tokens of a prompt, with rotary embedding and the way into
// the KV cache, as qkv.cuh; the rows of activations are normalised already.
#pragma once

#include "matrix.cuh"
#include "qkv.cuh"

namespace moeplan {

/// A block of threads: each warp has rows i .. i + 15 of a head of q, k or v and those `head_dim` /
/// 2 behind them, for `tile_tokens` tokens. x: bf16 rows (rounded.cuh).
template <class C>
__device__ void qkv_prompt(const moeplan_step *step, Binding<const uint16_t> x,
                           Binding<const void> wq, Binding<const void> wk, Binding<const void> wv,
                           Binding<uint16_t> keys, Binding<uint16_t> values, Binding<float> q,
                           Binding<uint32_t> counters) {
  constexpr int kTokens = C::tile_tokens, kTiles = (C::max_tokens + kTokens - 1) / kTokens;
  using Product = Matrix<C::threads, C::in_features, kTokens>;
  __shared__ typename Product::Shared shared;
  clearCounters<C>(counters);
  const int first = int(blockIdx.x) % kTiles * kTokens, live = int(step->token_count);
  if (first >= live)
    return;
  // Behind the last rows, the last ones stand in.
  const int part = int(blockIdx.x) / kTiles * (C::threads / kWarp) + warp();
  const HeadRows<C> rows(part < HeadRows<C>::kParts ? part : HeadRows<C>::kParts - 1);
  MatrixSums<kTokens> sums;
  Product{shared, x}.template multiply<1ll << C::weight_format>(
      rows.choose(wq, wk, wv), C::weight_format, rows.firstTile(), rows.secondTile(),
      rows.weightRows(), [&](int i) { return first + i < live ? first + i : -1; }, sums);
  const bool isSecond = lane() >= kWarp / 2;
  const int row = rows.begin + lane() / 4 % 4 * 4;
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n)
    for (int i = 0; i < 2; ++i) {
      const int token = first + 8 * n + 2 * (lane() % 4) + i;
      const uint64_t position = step->position + token;
      float four[4];
      for (int r = 0; r < 4; ++r) {
        const float own = sums.at(n, r, i), other = __shfl_xor_sync(~0u, own, kWarp / 2);
        float a = isSecond ? other : own, b = isSecond ? own : other;
        if (rows.kind != HeadRows<C>::kValue)
          rotate(float(position) * inverseFrequencies<C>.at[row + r], a, b);
        four[r] = isSecond ? b : a;
      }
      if (token >= live || part >= HeadRows<C>::kParts)
        continue;
      const int element = row + (isSecond ? C::head_dim / 2 : 0);
      if (rows.kind == HeadRows<C>::kQuery)
        *(float4 *)(rows.query(q, token) + element) = {four[0], four[1], four[2], four[3]};
      else
        *(RoundedFour *)(rows.cached(keys, values, step->kv_capacity, position) +
                         element) = {toBf16Pair(four[0], four[1]), toBf16Pair(four[2], four[3])};
    }
}

} // namespace moeplan
