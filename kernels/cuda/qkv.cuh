// Norm, the three projections of attention, rotary position embedding and the way into the KV
// cache: q[t, h] = rope(wq norm(x[t])), keys[h, position + t] = rope(wk norm(x[t])), values = wv
// norm(x[t]).
#pragma once

#include "product.cuh"

namespace moeplan {

/// e^x for x <= 0, when the kernel is compiled.
constexpr double exponential(double x) {
  double sum = 1, term = 1;
  for (int i = 1; i < 24; ++i)
    sum += term *= x / 64 / i;
  for (int i = 0; i < 6; ++i)
    sum *= sum;
  return sum;
}

/// theta^(-2 i / head_dim), rounded to float32 as Hugging Face does.
template <int kHalf> struct InverseFrequencies {
  float at[kHalf];
  constexpr InverseFrequencies(double logTheta) : at() {
    for (int i = 0; i < kHalf; ++i)
      at[i] = float(exponential(-logTheta * i / kHalf));
  }
};
template <class C>
__constant__ constexpr InverseFrequencies<C::head_dim / 2> inverseFrequencies(C::log_theta);

/// Rotates (a, b) by `angle`: the angle is reduced in float64, since it may be thousands of turns.
__device__ inline void rotate(float angle, float &a, float &b) {
  const double turns = double(angle) * 0.15915494309189533577;
  const float halves = 2 * float(turns - rint(turns));
  const float cosine = cospif(halves), sine = sinpif(halves);
  const float rotated = a * cosine - b * sine;
  b = b * cosine + a * sine;
  a = rotated;
}

/// Sets all counters to 0, by the first block.
template <class C> __device__ inline void clearCounters(uint32_t *counters) {
  if (blockIdx.x == 0)
    for (int i = threadIdx.x; i < C::max_tokens * C::num_kv_heads + 1; i += C::threads)
      counters[i] = 0;
}

/// 32 rows of wq, wk or wv that rotate together: `begin` .. `begin` + 15 of a head and those
/// head_dim / 2 behind them.
template <class C> struct HeadRows {
  static constexpr int kDim = C::head_dim, kHeads = C::num_heads, kKvHeads = C::num_kv_heads;
  static constexpr int kOfHead = kDim / kRowsPerWarp;
  static constexpr int kParts = (kHeads + 2 * kKvHeads) * kOfHead; ///< of all heads of all three
  static_assert(kDim % kRowsPerWarp == 0, "a rotation pairs rows of two tiles");
  enum Kind { kQuery, kKey, kValue } kind;
  int head, begin;

  __device__ HeadRows(int part) {
    head = part / kOfHead;
    begin = part % kOfHead * MOEPLAN_TILE_ROWS;
    kind = head < kHeads ? kQuery : head < kHeads + kKvHeads ? kKey : kValue;
    head -= kind == kQuery ? 0 : kind == kKey ? kHeads : kHeads + kKvHeads;
  }
  __device__ const void *choose(const void *wq, const void *wk, const void *wv) const {
    return kind == kQuery ? wq : kind == kKey ? wk : wv;
  }
  __device__ int firstTile() const { return (head * kDim + begin) / MOEPLAN_TILE_ROWS; }
  __device__ int secondTile() const { return firstTile() + kDim / 2 / MOEPLAN_TILE_ROWS; }
  __device__ int64_t weightRows() const {
    return int64_t(kind == kQuery ? kHeads : kKvHeads) * kDim;
  }
  /// Where a token's head begins in q, or in the cache: bf16 [num_kv_heads][capacity][head_dim].
  __device__ float *query(float *q, int64_t token) const {
    return q + (token * kHeads + head) * kDim;
  }
  __device__ uint16_t *cached(uint16_t *keys, uint16_t *values, uint64_t capacity,
                              uint64_t position) const {
    return (kind == kKey ? keys : values) + (uint64_t(head) * capacity + position) * kDim;
  }
};

/// A block of threads: HeadRows for up to 8 tokens. keys, values: bf16
/// [num_kv_heads][kv_capacity][head_dim]. Sets all counters to 0.
template <class C>
__device__ void qkv(const moeplan_step *step, Binding<const float> x, Binding<const float> scale,
                    Binding<const void> wq, Binding<const void> wk, Binding<const void> wv,
                    Binding<uint16_t> keys, Binding<uint16_t> values, Binding<float> q,
                    Binding<uint32_t> counters) {
  constexpr int kColumns = C::in_features, kHalf = C::head_dim / 2;
  using Rows = Product<C::threads, kColumns, C::normalize != 0, C::max_tokens>;
  __shared__ typename Rows::Shared shared;
  Rows product{shared};
  clearCounters<C>(counters);
  const HeadRows<C> rows(int(blockIdx.x));
  const int own = Rows::ownToken(), live = int(step->token_count);
  product.template multiply<1ll << C::weight_format>(
      0, rows.choose(wq, wk, wv), C::weight_format, rows.firstTile(), rows.secondTile(),
      rows.weightRows(), own < live ? x + int64_t(own) * kColumns : nullptr, scale);
  __syncthreads();
  for (int i = threadIdx.x; i < Rows::kSums / 2; i += C::threads) {
    const int token = i % Rows::kTokens, r = rows.begin + i / Rows::kTokens;
    if (token >= live)
      continue;
    const float factor = product.factor(token, C::epsilon);
    float a = product.sum(0, i) * factor, b = product.sum(0, i + Rows::kSums / 2) * factor;
    const uint64_t position = step->position + token;
    if (rows.kind != HeadRows<C>::kValue)
      rotate(float(position) * inverseFrequencies<C>.at[r], a, b);
    if (rows.kind == HeadRows<C>::kQuery) {
      float *out = rows.query(q, token);
      out[r] = a;
      out[r + kHalf] = b;
    } else {
      uint16_t *out = rows.cached(keys, values, step->kv_capacity, position);
      const uint32_t pair = toBf16Pair(a, b);
      out[r] = uint16_t(pair);
      out[r + kHalf] = uint16_t(pair >> 16);
    }
  }
}

} // namespace moeplan
