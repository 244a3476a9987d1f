// Kernels that do not multiply matrices: a block of threads is a token.
#pragma once

#include "rounded.cuh"
#include "weights.cuh"

namespace moeplan {

__device__ inline float fromBf16(uint16_t half) { return __uint_as_float(uint32_t(half) << 16); }

/// Element (row, column) of a weight of `columns` columns in format `kFormat` (kernel_abi.h).
template <int kFormat>
__device__ inline float elementOf(const void *weight, int64_t columns, int64_t row, int column) {
  if constexpr (kFormat == MOEPLAN_FORMAT_F32) {
    return ((const float *)weight)[row * columns + column];
  } else if constexpr (kFormat == MOEPLAN_FORMAT_BF16) {
    return fromBf16(((const uint16_t *)weight)[MOEPLAN_PAIR_INDEX(row, column, columns)]);
  } else {
    constexpr int kBits = moeplan_format_bits(kFormat), kSize = moeplan_format_group_size(kFormat);
    constexpr int kBlockBytes = kBits * 64, kGroupBlocks = kSize / 32;
    const int blocks = int((columns + 31) / 32), block = column / 32, index = column / kSize;
    const int left = blocks - index * kGroupBlocks;
    const unsigned char *group = (const unsigned char *)weight +
                                 row / MOEPLAN_TILE_ROWS * tileBytes<kFormat>(columns) +
                                 index * (kGroupBlocks * kBlockBytes + 32);
    const int r = int(row % MOEPLAN_TILE_ROWS), q = column % 32 / 4;
    const unsigned char *bytes = group + block % kGroupBlocks * kBlockBytes + r * 4 + column % 4;
    int code;
    if constexpr (kBits == 3)
      code = (bytes[q / 4 * 64] >> 2 * (q % 4) & 3) + (bytes[2 * 64] >> q & 1) * 4;
    else
      code = bytes[q / (8 / kBits) * 64] >> kBits * (q % (8 / kBits)) & ((1 << kBits) - 1);
    const unsigned char *scales =
        group + (left < kGroupBlocks ? left : kGroupBlocks) * kBlockBytes + r;
    const float scale = __uint_as_float((uint32_t(scales[0]) << 20) + MOEPLAN_SCALE_BIAS);
    return scale * (float(code) - float(scales[16]) * (float(1 << kBits) / 256.0f));
  }
}

/// out[t] = table[tokens[t]]; table [vocab_size, features].
template <class C>
__device__ void embedding(const moeplan_step *step, Binding<const int32_t> tokens,
                          Binding<const void> table, Binding<float> out) {
  if (blockIdx.y >= step->token_count)
    return;
  const int64_t row = tokens[blockIdx.y];
  for (int i = threadIdx.x; i < C::features; i += C::threads)
    out[int64_t(blockIdx.y) * C::features + i] =
        elementOf<C::weight_format>(table, C::features, row, i);
}

/// 1 / sqrt(mean(row^2) + epsilon), for all threads of the block.
template <class C> __device__ inline float normFactor(const float *row) {
  __shared__ float squares[C::threads / kWarp];
  float square = 0;
  for (int i = threadIdx.x; i < C::features; i += C::threads)
    square += row[i] * row[i];
  for (int mask = 1; mask < kWarp; mask *= 2)
    square += __shfl_xor_sync(~0u, square, mask);
  if (lane() == 0)
    squares[warp()] = square;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < C::threads / kWarp; ++w)
    sum += squares[w];
  return rsqrtf(sum / C::features + float(C::epsilon));
}

/// out[t] = x[t] / sqrt(mean(x[t]^2) + epsilon) * scale.
template <class C>
__device__ void rms_norm(const moeplan_step *step, Binding<const float> x,
                         Binding<const float> scale, Binding<float> out) {
  if (blockIdx.y >= step->token_count)
    return;
  const float *row = x + int64_t(blockIdx.y) * C::features;
  const float factor = normFactor<C>(row);
  for (int i = threadIdx.x; i < C::features; i += C::threads)
    out[int64_t(blockIdx.y) * C::features + i] = row[i] * factor * scale[i];
}

/// out[t] = norm(x[t]), or x[t] without a norm: bf16 [roundedColumns(features)] (rounded.cuh).
template <class C>
__device__ void rounded_rows(const moeplan_step *step, Binding<const float> x,
                             Binding<const float> scale, Binding<uint16_t> out) {
  constexpr int kColumns = C::features, kStride = roundedColumns(kColumns);
  if (blockIdx.y >= step->token_count)
    return;
  const float *row = x + int64_t(blockIdx.y) * kColumns;
  float factor = 1;
  if constexpr (C::normalize != 0)
    factor = normFactor<C>(row);
  for (int first = 4 * int(threadIdx.x); first < kStride; first += 4 * C::threads) {
    float four[4];
    for (int i = 0; i < 4; ++i)
      four[i] = first + i >= kColumns ? 0.0f
                : C::normalize        ? row[first + i] * factor * scale[first + i]
                                      : row[first + i];
    storeRounded(out + int64_t(blockIdx.y) * kStride + first, four);
  }
}

/// y = x + z.
template <class C>
__device__ void add(const moeplan_step *step, Binding<const float> x, Binding<const float> z,
                    Binding<float> y) {
  if (blockIdx.y >= step->token_count)
    return;
  for (int i = threadIdx.x; i < C::features; i += C::threads) {
    const int64_t at = int64_t(blockIdx.y) * C::features + i;
    y[at] = x[at] + z[at];
  }
}

} // namespace moeplan
