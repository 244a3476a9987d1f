// Rows of float32 activations as the products of weights.cuh want them: rounded to bf16, scaled for
// a norm whose factor is applied to the product.
#pragma once

#include "weights.cuh"

namespace moeplan {

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

} // namespace moeplan
