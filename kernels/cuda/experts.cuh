// The experts of up to 8 tokens: gate and up with SiLU in one launch, down with the weighted sum in
// another. h[s] = silu(w1 x) * (w3 x) of the token of slot s, y[token] += weight_s * w2 h[s].
#pragma once

#include "weights.cuh"

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

/// Calls `use` with the format as a constant, of the set `kFormats` (bit f: format f) alone. The
/// branch is the same for the whole block.
template <long long kFormats, int kFormat = MOEPLAN_FORMAT_BF16, typename Use>
__device__ inline void withFormat(int format, Use &&use) {
  if constexpr (kFormat <= MOEPLAN_FORMAT_MAX) {
    if constexpr (kFormats >> kFormat & 1)
      if (format == kFormat) {
        use.template operator()<kFormat>();
        return;
      }
    withFormat<kFormats, kFormat + 1>(format, use);
  }
}

/// The lane's tile of a weight; the last one where there is no second.
template <int Format>
__device__ inline const char *tileOf(const void *weight, int64_t firstRow, int64_t rows,
                                     int64_t columns) {
  const int64_t tiles = (rows + MOEPLAN_TILE_ROWS - 1) / MOEPLAN_TILE_ROWS;
  int64_t tile = firstRow / MOEPLAN_TILE_ROWS + lane() / 16;
  tile = tile < tiles ? tile : tiles - 1;
  return (const char *)weight + tile * tileBytes<Format>(columns);
}

/// 8 columns of a row of float32 `x`, zeros behind its end and where there is no row.
template <int kColumns>
__device__ inline void loadColumns(const float *x, int block, float (&out)[8]) {
  const int column = 32 * block + 8 * (lane() % 4);
  if (kColumns % 8 == 0) {
    const bool there = x && column < kColumns;
    const float4 zero = {0, 0, 0, 0};
    const float4 low = there ? *(const float4 *)(x + column) : zero;
    const float4 high = there ? *(const float4 *)(x + column + 4) : zero;
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      out[i] = x && column + i < kColumns ? x[column + i] : 0.0f;
  }
}

/// Blocks of 32 columns that a warp of `kWarps` takes: whole groups of any format.
template <int kColumns, int kWarps> struct BlockRange {
  static constexpr int kUnit = 4; // blocks of the largest group
  static constexpr int kBlocks = (kColumns + 31) / 32, kUnits = (kBlocks + kUnit - 1) / kUnit;
  static constexpr int kMost = (kUnits + kWarps - 1) / kWarps * kUnit;
  int begin, end;

  __device__ BlockRange() {
    begin = kUnits * warp() / kWarps * kUnit;
    end = kUnits * (warp() + 1) / kWarps * kUnit;
    end = end < kBlocks ? end : kBlocks;
  }
};

/// 8 columns of `row`, times `scale` where `kScaled`; adds their squares to `square`.
template <int kColumns, bool kScaled>
__device__ inline void loadScaled(const float *row, const float *scale, int block, float (&x)[8],
                                  float &square) {
  loadColumns<kColumns>(row, block, x);
  if constexpr (kScaled) {
    float factors[8];
    loadColumns<kColumns>(row ? scale : nullptr, block, factors);
    for (int i = 0; i < 8; ++i) {
      square += x[i] * x[i];
      x[i] *= factors[i];
    }
  }
}

/// Up to eight rows, each lane's own: loaded and rounded where they are used.
template <int kColumns, bool kScaled> struct RowActivations {
  static constexpr bool kSingle = false;
  const float *row, *scale; ///< row of lane / 4; null: zeros
  float square = 0;

  template <bool kPairs> __device__ BlockActivations prepare(int block) {
    float x[8];
    loadScaled<kColumns, kScaled>(row, scale, block, x, square);
    BlockActivations rounded;
    rounded.set<kPairs>(x);
    return rounded;
  }
};

/// The blocks of one row that each warp works on, rounded.
template <int kColumns, int kWarps> struct StagedColumns {
  uint4 columns[kWarps][BlockRange<kColumns, kWarps>::kMost * 4];
  float sums[kWarps][BlockRange<kColumns, kWarps>::kMost];
};

/// One row, of which each warp rounds its blocks into shared memory first.
template <int kColumns, bool kScaled, int kWarps> struct StagedActivations {
  static constexpr bool kSingle = true;
  StagedColumns<kColumns, kWarps> &shared;
  const float *row, *scale;
  int begin = 0;
  float square = 0;

  template <bool kPairs> __device__ void stage(BlockRange<kColumns, kWarps> range) {
    begin = range.begin;
    __syncwarp();
    for (int first = range.begin; first < range.end; first += 8) {
      const int block = first + lane() / 4;
      float x[8] = {};
      if (block < range.end)
        loadScaled<kColumns, kScaled>(row, scale, block, x, square);
      BlockActivations rounded;
      rounded.set<kPairs>(x);
      float sum = 0;
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = rounded.b[i / 2][i % 2];
        sum += __uint_as_float(pair << 16) + __uint_as_float(pair & 0xffff0000u);
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (block < range.end) {
        shared.columns[warp()][(block - begin) * 4 + lane() % 4] = {
            rounded.b[0][0], rounded.b[0][1], rounded.b[1][0], rounded.b[1][1]};
        if (lane() % 4 == 0)
          shared.sums[warp()][block - begin] = sum;
      }
    }
    __syncwarp();
  }
  template <bool> __device__ BlockActivations prepare(int block) const {
    const uint4 v = shared.columns[warp()][(block - begin) * 4 + lane() % 4];
    return {{{v.x, v.y}, {v.z, v.w}}};
  }
  __device__ float sum(int block) const { return shared.sums[warp()][block - begin]; }
};

/// What a block of threads shares for its activations: nothing where there may be several rows.
template <bool kSingle, int kColumns, int kWarps> struct SharedActivations {};
template <int kColumns, int kWarps>
struct SharedActivations<true, kColumns, kWarps> : StagedColumns<kColumns, kWarps> {};

/// Sums of 32 rows of `weight` from `firstRow` on, over this warp's blocks. `row` is that of the
/// lane, or the only one where `kSingle`. `square` becomes the sum of the squares the lane has
/// read.
template <class C, int kRows, int kColumns, bool kScaled, bool kSingle, typename Shared>
__device__ inline RowSums multiplyExpert(const void *weight, int format, int firstRow,
                                         const float *row, const float *scale, Shared &shared,
                                         float &square) {
  constexpr int kWarps = C::threads / kWarp;
  const BlockRange<kColumns, kWarps> range;
  RowSums sums = {};
  withFormat<C::formats>(format, [&]<int kFormat>() {
    const char *tile = tileOf<kFormat>(weight, firstRow, kRows, kColumns);
    if constexpr (kSingle) {
      StagedActivations<kColumns, kScaled, kWarps> activations{shared, row, scale};
      activations.template stage<kFormat == MOEPLAN_FORMAT_BF16>(range);
      multiplyRows<kFormat, kColumns, C::unroll>(tile, range.begin, range.end, sums, activations);
      square = activations.square;
    } else {
      RowActivations<kColumns, kScaled> activations{row, scale};
      multiplyRows<kFormat, kColumns, C::unroll>(tile, range.begin, range.end, sums, activations);
      square = activations.square;
    }
  });
  return sums;
}

/// Writes the lane's sums to `out` [32 rows][kRowsOfX]: one or eight.
template <int kRowsOfX> __device__ inline void storeSums(float *out, const RowSums &sums) {
  const int g = lane() / 4, t = lane() % 4;
  if (kRowsOfX == 1 && t > 0)
    return;
  for (int r = 0; r < 4; ++r)
    for (int n = 0; n < (kRowsOfX == 1 ? 1 : 2); ++n)
      out[(4 * g + r) * kRowsOfX + 2 * t + n] = sums.sum[r][n];
}

/// A block of threads: 32 rows of one routed expert.
template <class C>
__device__ void experts_gate_up(const moeplan_step *, const float *x, const float *scale,
                                const moeplan_expert *experts, const uint32_t *expertBegin,
                                const uint32_t *slotToken, float *h) {
  constexpr int kFeatures = C::features, kRows = C::intermediate, kWarps = C::threads / kWarp;
  constexpr bool kSingle = C::max_tokens == 1;
  constexpr int kRowsOfX = kSingle ? 1 : 8;
  constexpr int kRowBlocks = (kRows + kRowsPerWarp - 1) / kRowsPerWarp;
  __shared__ float partial[2][kWarps][kRowsPerWarp * kRowsOfX];
  __shared__ float squares[kWarps][8];
  __shared__ SharedActivations<kSingle, kFeatures, kWarps> shared;
  const int firstRow = int(blockIdx.x) % kRowBlocks * kRowsPerWarp;
  const ExpertSlots slots(expertBegin, C::num_experts, int(blockIdx.x) / kRowBlocks);
  if (slots.expert < 0)
    return;
  const moeplan_expert &expert = experts[slots.expert];
  const int g = lane() / 4;
  for (uint32_t first = slots.begin; first < slots.end; first += kRowsOfX) {
    const uint32_t slot = first + (kSingle ? 0 : g);
    const float *row = slot < slots.end ? x + int64_t(slotToken[slot]) * kFeatures : nullptr;
    float square = 0;
    for (int up = 0; up < 2; ++up) {
      const void *weight = up ? expert.w3 : expert.w1;
      const int format = up ? expert.w3_format : expert.w1_format;
      constexpr bool kScaled = C::normalize != 0;
      const RowSums sums = multiplyExpert<C, kRows, kFeatures, kScaled, kSingle>(
          weight, format, firstRow, row, scale, shared, square);
      storeSums<kRowsOfX>(partial[up][warp()], sums);
    }
    square += __shfl_xor_sync(~0u, square, 1);
    square += __shfl_xor_sync(~0u, square, 2);
    if constexpr (kSingle)
      for (int mask = 4; mask < kWarp; mask *= 2)
        square += __shfl_xor_sync(~0u, square, mask);
    if (lane() % 4 == 0)
      squares[warp()][g] = square;
    __syncthreads();
    for (int i = threadIdx.x; i < kRowsPerWarp * kRowsOfX; i += C::threads) {
      const uint32_t slot = first + i % kRowsOfX;
      const int n = firstRow + i / kRowsOfX;
      if (slot >= slots.end || n >= kRows)
        continue;
      float gate = 0, up = 0, sum = 0;
      for (int w = 0; w < kWarps; ++w) {
        gate += partial[0][w][i];
        up += partial[1][w][i];
        sum += squares[w][i % kRowsOfX];
      }
      const float factor = C::normalize ? rsqrtf(sum / kFeatures + float(C::epsilon)) : 1.0f;
      gate *= factor;
      h[int64_t(slot) * kRows + n] = gate / (1.0f + __expf(-gate)) * (up * factor);
    }
    __syncthreads();
  }
}

/// A block of threads: 32 rows of all routed experts, in their order.
template <class C>
__device__ void experts_down(const moeplan_step *step, const float *h,
                             const moeplan_expert *experts, const uint32_t *expertBegin,
                             const uint32_t *slotToken, const float *slotWeight, float *y) {
  constexpr int kRows = C::features, kColumns = C::intermediate, kWarps = C::threads / kWarp;
  constexpr bool kSingle = C::max_tokens == 1;
  constexpr int kRowsOfX = kSingle ? 1 : 8;
  __shared__ float partial[kWarps][kRowsPerWarp * kRowsOfX];
  __shared__ float result[kRowsPerWarp * kRowsOfX];
  __shared__ SharedActivations<kSingle, kColumns, kWarps> shared;
  const int firstRow = int(blockIdx.x) * kRowsPerWarp, g = lane() / 4;
  for (int i = threadIdx.x; i < kRowsPerWarp * kRowsOfX; i += C::threads)
    result[i] = 0;
  for (int index = 0; index < C::num_experts; ++index) {
    const ExpertSlots slots(expertBegin, C::num_experts, index);
    if (slots.expert < 0)
      break;
    const moeplan_expert &expert = experts[slots.expert];
    const uint32_t first = slots.begin + (kSingle ? 0 : g);
    const float *row = first < slots.end ? h + int64_t(first) * kColumns : nullptr;
    float square;
    const RowSums sums = multiplyExpert<C, kRows, kColumns, false, kSingle>(
        expert.w2, expert.w2_format, firstRow, row, nullptr, shared, square);
    __syncthreads();
    storeSums<kRowsOfX>(partial[warp()], sums);
    __syncthreads();
    for (int i = threadIdx.x; i < kRowsPerWarp * kRowsOfX; i += C::threads)
      if (const uint32_t slot = slots.begin + i % kRowsOfX; slot < slots.end) {
        float sum = 0;
        for (int w = 0; w < kWarps; ++w)
          sum += partial[w][i];
        result[i / kRowsOfX * kRowsOfX + int(slotToken[slot])] += slotWeight[slot] * sum;
      }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kRowsPerWarp * kRowsOfX; i += C::threads) {
    const int token = i % kRowsOfX, n = firstRow + i / kRowsOfX;
    if (token < int(step->token_count) && n < kRows) {
      float &target = y[int64_t(token) * kRows + n];
      target = (C::accumulate ? target : 0.0f) + result[i];
    }
  }
}

} // namespace moeplan
