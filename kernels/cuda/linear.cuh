// y[t] = w norm(x[t]): output projection and logits.
#pragma once

#include "product.cuh"

namespace moeplan {

/// A block of threads: 32 rows of `w` for up to 8 tokens.
template <class C>
__device__ void linear(const moeplan_step *step, Binding<const float> x, Binding<const float> scale,
                       Binding<const void> w, Binding<float> y) {
  constexpr int kRows = C::out_features, kColumns = C::in_features;
  using Rows = Product<C::threads, kColumns, C::normalize != 0, C::max_tokens>;
  __shared__ typename Rows::Shared shared;
  Rows product{shared};
  const int firstRow = int(blockIdx.x) * kRowsPerWarp, tile = firstRow / MOEPLAN_TILE_ROWS;
  const uint32_t live = step->token_count, wanted = C::logits_rows ? step->logits_begin : 0;
  if (wanted >= live)
    return;
  const uint32_t own = Rows::ownToken();
  const float *row = own >= wanted && own < live ? x + int64_t(own) * kColumns : nullptr;
  product.template multiply<1ll << C::weight_format>(0, w, C::weight_format, tile, tile + 1, kRows,
                                                     row, scale);
  __syncthreads();
  for (int i = threadIdx.x; i < Rows::kSums; i += C::threads) {
    const uint32_t token = i % Rows::kTokens;
    const int n = firstRow + i / Rows::kTokens;
    if (token < wanted || token >= live || n >= kRows)
      continue;
    float &target = y[int64_t(token) * kRows + n];
    target = (C::accumulate ? target : 0.0f) +
             product.sum(0, i) * product.factor(int(token), C::epsilon);
  }
}

} // namespace moeplan
