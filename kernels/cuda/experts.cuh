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

/// Blocks of 32 columns that a warp of `warps` takes: whole groups of any format.
struct BlockRange {
  int begin, end;

  __device__ BlockRange(int columns, int warps, int index) {
    constexpr int kUnit = 4; // blocks of the largest group
    const int blocks = (columns + 31) / 32, units = (blocks + kUnit - 1) / kUnit;
    begin = units * index / warps * kUnit;
    end = units * (index + 1) / warps * kUnit;
    end = end < blocks ? end : blocks;
  }
};

/// Writes the lane's sums to `out` [32 rows][8].
__device__ inline void storeSums(float *out, const RowSums &sums) {
  const int g = lane() / 4, t = lane() % 4;
  for (int r = 0; r < 4; ++r)
    for (int n = 0; n < 2; ++n)
      out[(4 * g + r) * 8 + 2 * t + n] = sums.sum[r][n];
}

/// A block of threads: 32 rows of one routed expert.
template <class C>
__device__ void experts_gate_up(const moeplan_step *, const float *x, const float *scale,
                                const moeplan_expert *experts, const uint32_t *expertBegin,
                                const uint32_t *slotToken, float *h) {
  constexpr int kFeatures = C::features, kRows = C::intermediate, kWarps = C::threads / kWarp;
  constexpr int kRowBlocks = (kRows + kRowsPerWarp - 1) / kRowsPerWarp;
  __shared__ float partial[2][kWarps][kRowsPerWarp * 8];
  __shared__ float squares[kWarps][8];
  const int firstRow = int(blockIdx.x) % kRowBlocks * kRowsPerWarp;
  const ExpertSlots slots(expertBegin, C::num_experts, int(blockIdx.x) / kRowBlocks);
  if (slots.expert < 0)
    return;
  const moeplan_expert &expert = experts[slots.expert];
  const int g = lane() / 4;
  for (uint32_t first = slots.begin; first < slots.end; first += 8) {
    const float *row =
        first + g < slots.end ? x + int64_t(slotToken[first + g]) * kFeatures : nullptr;
    const BlockRange range(kFeatures, kWarps, warp());
    float square = 0;
    for (int up = 0; up < 2; ++up) {
      RowSums sums = {};
      withFormat<C::formats>(up ? expert.w3_format : expert.w1_format, [&]<int kFormat>() {
        const char *tile = tileOf<kFormat>(up ? expert.w3 : expert.w1, firstRow, kRows, kFeatures);
        multiplyRows<kFormat, kFeatures, C::unroll>(
            tile, range.begin, range.end, sums, [&](int block, float(&columns)[8]) {
              loadColumns<kFeatures>(row, block, columns);
              if constexpr (C::normalize) {
                float factors[8];
                loadColumns<kFeatures>(row ? scale : nullptr, block, factors);
                for (int i = 0; i < 8; ++i) {
                  square += up ? 0.0f : columns[i] * columns[i];
                  columns[i] *= factors[i];
                }
              }
            });
      });
      storeSums(partial[up][warp()], sums);
    }
    square += __shfl_xor_sync(~0u, square, 1);
    square += __shfl_xor_sync(~0u, square, 2);
    if (lane() % 4 == 0)
      squares[warp()][g] = square;
    __syncthreads();
    for (int i = threadIdx.x; i < kRowsPerWarp * 8; i += C::threads) {
      const uint32_t slot = first + i % 8;
      const int n = firstRow + i / 8;
      if (slot >= slots.end || n >= kRows)
        continue;
      float gate = 0, up = 0, sum = 0;
      for (int w = 0; w < kWarps; ++w) {
        gate += partial[0][w][i];
        up += partial[1][w][i];
        sum += squares[w][i % 8];
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
  constexpr int kTokens = 8;
  __shared__ float partial[kWarps][kRowsPerWarp * 8];
  __shared__ float result[kRowsPerWarp * kTokens];
  const int firstRow = int(blockIdx.x) * kRowsPerWarp, g = lane() / 4;
  for (int i = threadIdx.x; i < kRowsPerWarp * kTokens; i += C::threads)
    result[i] = 0;
  for (int index = 0; index < C::num_experts; ++index) {
    const ExpertSlots slots(expertBegin, C::num_experts, index);
    if (slots.expert < 0)
      break;
    const moeplan_expert &expert = experts[slots.expert];
    const float *row =
        slots.begin + g < slots.end ? h + int64_t(slots.begin + g) * kColumns : nullptr;
    const BlockRange range(kColumns, kWarps, warp());
    RowSums sums = {};
    withFormat<C::formats>(expert.w2_format, [&]<int kFormat>() {
      multiplyRows<kFormat, kColumns, C::unroll>(
          tileOf<kFormat>(expert.w2, firstRow, kRows, kColumns), range.begin, range.end, sums,
          [&](int block, float(&columns)[8]) { loadColumns<kColumns>(row, block, columns); });
    });
    __syncthreads();
    storeSums(partial[warp()], sums);
    __syncthreads();
    for (int i = threadIdx.x; i < kRowsPerWarp * 8; i += C::threads)
      if (const uint32_t slot = slots.begin + i % 8; slot < slots.end) {
        float sum = 0;
        for (int w = 0; w < kWarps; ++w)
          sum += partial[w][i];
        result[i / 8 * kTokens + int(slotToken[slot])] += slotWeight[slot] * sum;
      }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kRowsPerWarp * kTokens; i += C::threads) {
    const int token = i % kTokens, n = firstRow + i / kTokens;
    if (token < int(step->token_count) && n < kRows) {
      float &target = y[int64_t(token) * kRows + n];
      target = (C::accumulate ? target : 0.0f) + result[i];
    }
  }
}

} // namespace moeplan
