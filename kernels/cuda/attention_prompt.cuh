// Attention of the tokens of a prompt on tensor cores, a tile of positions at a time (Dao,
// FlashAttention-2, arXiv 2307.08691). The query heads that share a key/value head are rows of the
// same products: row token * group + head.
#pragma once

#include "attention.cuh"
#include "rounded.cuh"

namespace moeplan {

/// Keys or values of a tile of positions in shared memory, in pieces of 8 elements.
template <int kPositions, int kDim> struct CacheTile {
  static constexpr int kPieces = kDim / 8;
  /// Rows of a multiple of 128 bytes would begin in the same bank.
  static constexpr bool kSwizzled = kPieces % 8 == 0;
  uint4 pieces[kPositions][kPieces];

  /// Lanes read pieces of two neighbouring positions at once: they get different halves of banks.
  __device__ uint4 &key(int position, int piece) {
    return pieces[position][kSwizzled ? piece ^ position % 2 * 4 : piece];
  }
  /// Lanes read two elements of every other position at once: of four in a row, different quarters.
  __device__ uint4 &value(int position, int piece) {
    return pieces[position][kSwizzled ? piece ^ position / 2 % 4 * 2 : piece];
  }
};

/// A block of 4 warps: 64 rows of one key/value head. q: float32 [max_tokens, num_heads *
/// head_dim], keys, values: bf16 [num_kv_heads][kv_capacity][head_dim], out: bf16 rows
/// (rounded.cuh).
template <class C>
__device__ void attention_prompt(const moeplan_step *step, Binding<const float> q,
                                 Binding<const uint16_t> keys, Binding<const uint16_t> values,
                                 Binding<uint16_t> out) {
  constexpr int kDim = C::head_dim, kKvHeads = C::num_kv_heads;
  constexpr int kGroup = C::num_heads / kKvHeads, kRows = C::threads / kWarp * 16;
  constexpr int kBlocks = (C::max_tokens * kGroup + kRows - 1) / kRows; // of a head
  constexpr int kTile = kDim <= 64 ? 64 : kDim <= 128 ? 32 : 16;        // positions
  constexpr int kSlices = kDim / 32, kPairs = kDim / 16;
  static_assert(kDim % 32 == 0);
  using Tile = CacheTile<kTile, kDim>;
  __shared__ struct {
    Tile keys, values;
  } tiles[2];

  // The last tokens see the most positions: they come first.
  const int head = int(blockIdx.x) % kKvHeads;
  const int first = (kBlocks - 1 - int(blockIdx.x) / kKvHeads) * kRows;
  const int live = int(step->token_count);
  if (first >= live * kGroup)
    return;
  const int64_t position = int64_t(step->position);
  auto endOf = [&](int row) { // behind the positions that a row sees
    const int token = row / kGroup < live ? row / kGroup : live - 1;
    return position + token + 1;
  };
  auto beginOf = [&](int row) {
    const int64_t begin = endOf(row) - C::sliding_window;
    return C::sliding_window > 0 && begin > 0 ? begin : 0;
  };
  const int64_t begin = beginOf(first) / kTile * kTile, end = endOf(first + kRows - 1);

  const uint16_t *const cache[2] = {keys + int64_t(head) * int64_t(step->kv_capacity) * kDim,
                                    values + int64_t(head) * int64_t(step->kv_capacity) * kDim};
  auto fetch = [&](int64_t tile) {
    auto &target = tiles[(tile - begin) / kTile % 2];
    for (int i = threadIdx.x; i < kTile * Tile::kPieces; i += C::threads) {
      const int p = i / Tile::kPieces, piece = i % Tile::kPieces;
      // What lies behind the last token may be no number.
      const bool there = tile + p < end;
      const int64_t at = (there ? tile + p : 0) * kDim + 8 * piece;
      copyAsync(&target.keys.key(p, piece), cache[0] + at, there);
      copyAsync(&target.values.value(p, piece), cache[1] + at, there);
    }
    commitCopies();
  };
  fetch(begin);

  const int g = lane() / 4, t = lane() % 4, firstRow = first + warp() * 16;
  const float scale = rsqrtf(float(kDim)) * 1.44269504f; // powers of two instead of e
  uint32_t query[kSlices][2][4];                         // columns 32 s + 8 t .. of rows g, g + 8
#pragma unroll
  for (int s = 0; s < kSlices; ++s)
    for (int i = 0; i < 2; ++i) {
      const int row = firstRow + g + 8 * i;
      const float *x =
          q + (int64_t(row / kGroup) * C::num_heads + head * kGroup + row % kGroup) * kDim +
          32 * s + 8 * t;
      const bool there = row < live * kGroup;
      for (int word = 0; word < 4; ++word)
        query[s][i][word] = there ? toBf16Pair(x[2 * word] * scale, x[2 * word + 1] * scale) : 0u;
    }

  float maximum[2] = {-INFINITY, -INFINITY}, weight[2] = {}; // of rows g, g + 8; a lane's own share
  float sum[kPairs][2][4] = {}; // of 16 columns the even ones, then the odd ones
  for (int64_t tile = begin; tile < end; tile += kTile) {
    if (tile + kTile < end) {
      fetch(tile + kTile);
      waitForCopies<1>();
    } else {
      waitForCopies<0>();
    }
    __syncthreads();
    auto &shared = tiles[(tile - begin) / kTile % 2];

    float logit[kTile / 8][4] = {};
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        const uint4 key = shared.keys.key(8 * n + g, 4 * s + t);
        const auto &rows = query[s];
        multiplyAdd(logit[n], rows[0][0], rows[1][0], rows[0][1], rows[1][1], key.x, key.y);
        multiplyAdd(logit[n], rows[0][2], rows[1][2], rows[0][3], rows[1][3], key.z, key.w);
      }
    // Rows of a block differ in what they see only at its ends.
    if (tile + kTile > endOf(first) || tile < beginOf(first + kRows - 1))
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n)
        for (int i = 0; i < 4; ++i) {
          const int row = firstRow + g + i / 2 * 8;
          const int64_t p = tile + 8 * n + 2 * t + i % 2;
          if (p >= endOf(row) || p < beginOf(row))
            logit[n][i] = -INFINITY;
        }

    uint32_t weights[kTile / 8][2]; // of rows g, g + 8: two neighbouring positions
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float most = maximum[i];
      for (int n = 0; n < kTile / 8; ++n)
        most = fmaxf(most, fmaxf(logit[n][2 * i], logit[n][2 * i + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      // Where nothing was seen yet the maximum is -inf, and so are the logits: no differences.
      const float base = most == -INFINITY ? 0.0f : most;
      const float factor = exp2f(maximum[i] - base);
      maximum[i] = most;
      weight[i] *= factor;
#pragma unroll
      for (int j = 0; j < kPairs; ++j)
        for (int parity = 0; parity < 2; ++parity) {
          sum[j][parity][2 * i] *= factor;
          sum[j][parity][2 * i + 1] *= factor;
        }
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
        const float low = exp2f(logit[n][2 * i] - base), high = exp2f(logit[n][2 * i + 1] - base);
        weight[i] += low + high;
        weights[n][i] = toBf16Pair(low, high);
      }
    }
#pragma unroll
    for (int n = 0; n < kTile / 8; n += 2)
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        uint32_t value[4]; // elements 16 j + 2 g, + 1 of positions 2 t, + 1, + 8, + 9
        for (int i = 0; i < 4; ++i)
          value[i] = ((const uint32_t *)&shared.values.value(8 * n + i / 2 * 8 + 2 * t + i % 2,
                                                             2 * j + g / 4))[g % 4];
        for (int parity = 0; parity < 2; ++parity) {
          const uint32_t selector = parity ? 0x7632 : 0x5410;
          multiplyAdd(sum[j][parity], weights[n][0], weights[n][1], weights[n + 1][0],
                      weights[n + 1][1], permute(value[0], value[1], selector),
                      permute(value[2], value[3], selector));
        }
      }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    weight[i] += __shfl_xor_sync(~0u, weight[i], 1);
    weight[i] += __shfl_xor_sync(~0u, weight[i], 2);
    const int row = firstRow + g + 8 * i;
    if (row >= live * kGroup)
      continue;
    uint16_t *target = out + int64_t(row / kGroup) * C::num_heads * kDim +
                       (head * kGroup + row % kGroup) * kDim + 4 * t;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float four[4] = {sum[j][0][2 * i] / weight[i], sum[j][1][2 * i] / weight[i],
                             sum[j][0][2 * i + 1] / weight[i], sum[j][1][2 * i + 1] / weight[i]};
      storeRounded(target + 16 * j, four);
    }
  }
}

} // namespace moeplan
