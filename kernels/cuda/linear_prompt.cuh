// y[t] = w x[t] for the tokens of a prompt.
#pragma once

#include "matrix.cuh"

namespace moeplan {

/// Four sums of neighbouring rows, the first a multiple of 4, to y [rows]; added to what is there
/// where kAdd.
template <int kRows, bool kAdd>
__device__ inline void storeFour(float *y, int row, const float (&sums)[4]) {
  if (kRows % 4 == 0 && row < kRows) {
    float4 &target = *(float4 *)(y + row);
    const float4 old = kAdd ? target : float4{0, 0, 0, 0};
    target = {old.x + sums[0], old.y + sums[1], old.z + sums[2], old.w + sums[3]};
  } else {
    for (int r = 0; r < 4; ++r)
      if (row + r < kRows)
        y[row + r] = (kAdd ? y[row + r] : 0.0f) + sums[r];
  }
}

/// A block of threads: as many rows of `w` for `tile_tokens` tokens. x: bf16 rows (rounded.cuh).
template <class C>
__device__ void linear_prompt(const moeplan_step *step, Binding<const uint16_t> x,
                              Binding<const void> w, Binding<float> y) {
  constexpr int kRows = C::out_features, kTokens = C::tile_tokens;
  constexpr int kTiles = (C::max_tokens + kTokens - 1) / kTokens;
  using Product = Matrix<C::threads, C::in_features, kTokens>;
  __shared__ typename Product::Shared shared;
  const int first = int(blockIdx.x) % kTiles * kTokens;
  const int live = int(step->token_count), wanted = C::logits_rows ? int(step->logits_begin) : 0;
  if (first >= live || first + kTokens <= wanted)
    return;
  const int firstRow = int(blockIdx.x) / kTiles * C::threads + warp() * kRowsPerWarp;
  const int tile = firstRow / MOEPLAN_TILE_ROWS;
  auto isWanted = [&](int token) { return token >= wanted && token < live; };
  MatrixSums<kTokens> sums;
  Product{shared, x}.template multiply<1ll << C::weight_format>(
      w, C::weight_format, tile, tile + 1, kRows,
      [&](int i) { return isWanted(first + i) ? first + i : -1; }, sums);
  const int row = firstRow + lane() / 4 * 4;
  sums.each([&](int i, const float(&four)[4]) {
    if (isWanted(first + i))
      storeFour<kRows, C::accumulate != 0>(y + int64_t(first + i) * kRows, row, four);
  });
}

} // namespace moeplan
