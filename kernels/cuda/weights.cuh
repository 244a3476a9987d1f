// Products of weights in any format with up to 8 rows of activations.
//
// A warp takes two tiles of 16 rows (kernel_abi.h). Lane 4 g + t has rows 4 (g % 4) .. + 3 of tile
// g / 4 and columns 8 t .. 8 t + 7 of a block of 32: of every format that is one to four loads of
// 16 bytes, and the fragments of two products of 16 rows for each half of the columns.
#pragma once

#include "device.cuh"

namespace moeplan {

constexpr int kRowsPerWarp = 2 * MOEPLAN_TILE_ROWS;

/// Bytes of a tile of 16 rows.
constexpr int64_t tileBytes(int format, int64_t columns) {
  if (format == MOEPLAN_FORMAT_BF16)
    return MOEPLAN_PAIRS(columns) * MOEPLAN_TILE_ROWS * 4;
  const int64_t blocks = (columns + 31) / 32, group = moeplan_format_group_size(format);
  return blocks * moeplan_format_bits(format) * 64 + (columns + group - 1) / group * 32;
}
template <int Format> constexpr int64_t tileBytes(int64_t columns) {
  return tileBytes(Format, columns);
}

/// Four codes of a byte each to two pairs of bf16 integers, columns (0, 2) and (1, 3).
__device__ inline void bytesToPairs(uint32_t word, uint32_t &even, uint32_t &odd) {
  auto number = [&](uint32_t selector) {
    return __uint_as_float(permute(word, 0x4b000000u, selector)) - 8388608.0f;
  };
  even = toBf16Pair(number(0x7440), number(0x7442));
  odd = toBf16Pair(number(0x7441), number(0x7443));
}

/// What a lane loads of a block.
template <int Format> struct BlockLoads {
  static constexpr bool kPairs = Format == MOEPLAN_FORMAT_BF16;
  static constexpr int kBits = kPairs ? 16 : moeplan_format_bits(Format);
  static constexpr int kLoads = kPairs ? 4 : kBits == 8 || kBits == 3 ? 2 : 1;
  /// 2^7 is left in the codes: see fragments().
  static constexpr float kBias = kPairs || kBits == 8 ? 0.0f : 128.0f;
  uint4 word[kLoads];

  /// `rows` is the lane's first row of the block, of which `columns` are there: tiles of bf16 end
  /// with the last four columns.
  __device__ void load(const char *rows, int columns = 32) {
    const int t = lane() % 4;
    if constexpr (kPairs) {
      for (int i = 0; i < 4; ++i)
        word[i] = 8 * t + 2 * i < columns ? loadStreamed(rows + (4 * t + i) * 64) : uint4{};
    } else if constexpr (kBits == 8) {
      for (int i = 0; i < 2; ++i)
        word[i] = loadStreamed(rows + (2 * t + i) * 64);
    } else if constexpr (kBits == 4) {
      word[0] = loadStreamed(rows + t * 64);
    } else {
      word[0] = loadStreamed(rows + t / 2 * 64);
      if constexpr (kBits == 3)
        word[1] = loadStreamed(rows + 2 * 64);
    }
  }

  __device__ static uint32_t row(const uint4 &v, int r) {
    return r == 0 ? v.x : r == 1 ? v.y : r == 2 ? v.z : v.w;
  }

  /// Registers (even, odd) of row r and the columns 4 `half` .. + 3 of the lane, plus kBias: a code
  /// c below 2^7 in the lower bits of bf16 128 is 128 + c.
  __device__ void pairs(int r, int half, uint32_t &even, uint32_t &odd) const {
    constexpr uint32_t magic = 0x43004300u;
    const int t = lane() % 4;
    if constexpr (kPairs) {
      even = row(word[2 * half], r);
      odd = row(word[2 * half + 1], r);
    } else if constexpr (kBits == 8) {
      bytesToPairs(row(word[half], r), even, odd);
    } else if constexpr (kBits == 4) {
      const uint32_t codes = row(word[0], r) >> 4 * half;
      even = (codes & 0x000f000fu) | magic;
      odd = (codes >> 8 & 0x000f000fu) | magic;
    } else {
      const uint32_t codes = row(word[0], r) >> (4 * (t % 2) + 2 * half);
      even = (codes & 0x00030003u) | magic;
      odd = (codes >> 8 & 0x00030003u) | magic;
      if constexpr (kBits == 3) {
        const uint32_t upper = row(word[1], r) >> (2 * t + half);
        even |= (upper & 0x00010001u) << 2;
        odd |= (upper >> 8 & 0x00010001u) << 2;
      }
    }
  }
};

/// The 8 activations of a lane for one block, rounded, as the fragments want them.
struct BlockActivations {
  uint32_t b[2][2];

  template <bool kPairs> __device__ void set(const float (&x)[8]) {
    for (int half = 0; half < 2; ++half)
      for (int j = 0; j < 2; ++j)
        b[half][j] = kPairs ? toBf16Pair(x[4 * half + 2 * j], x[4 * half + 2 * j + 1])
                            : toBf16Pair(x[4 * half + j], x[4 * half + j + 2]);
  }
};

/// sum[r][n]: row r of the lane's four with activations 2 t + n.
struct RowSums {
  float sum[4][2];
};

/// Adds blocks `begin` .. `end` - 1 (whole groups) of the lane's rows. `tile` is the lane's tile;
/// of `activations`, prepare<kPairs>(block) gives the lane's 8 columns of a block. Where it is
/// kSingle, all eight rows of activations are the same one, and sum(block) is that of its columns
/// as they were rounded.
template <int Format, int kColumns, int kUnroll, typename Activations>
__device__ inline void multiplyRows(const char *tile, int begin, int end, RowSums &total,
                                    Activations &activations) {
  using Loads = BlockLoads<Format>;
  constexpr int blockBytes = Loads::kBits * 64;
  constexpr bool kSingle = Activations::kSingle;
  constexpr int kResults = kSingle ? 1 : 2;
  const int quad = lane() / 4 % 4;
  auto product = [&](const Loads &loads, const BlockActivations &x, float(&upper)[4],
                     float(&lower)[4], float(&sums)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[4][2];
#pragma unroll
      for (int r = 0; r < 4; ++r)
        loads.pairs(r, half, a[r][0], a[r][1]);
      multiplyAdd(upper, a[0][0], a[1][0], a[0][1], a[1][1], x.b[half][0], x.b[half][1]);
      multiplyAdd(lower, a[2][0], a[3][0], a[2][1], a[3][1], x.b[half][0], x.b[half][1]);
      if constexpr (!Loads::kPairs && !kSingle) {
        constexpr uint32_t one = 0x3f803f80u;
        multiplyAdd(sums, one, one, one, one, x.b[half][0], x.b[half][1]);
      }
    }
  };
  if constexpr (Loads::kPairs) {
    float upper[4] = {}, lower[4] = {}, none[4];
#pragma unroll kUnroll
    for (int block = begin; block < end; ++block) {
      Loads loads;
      loads.load(tile + block * blockBytes + quad * 16,
                 kColumns % 32 == 0 ? 32 : kColumns - 32 * block);
      product(loads, activations.template prepare<true>(block), upper, lower, none);
    }
    for (int n = 0; n < kResults; ++n) {
      total.sum[0][n] += upper[n];
      total.sum[1][n] += upper[2 + n];
      total.sum[2][n] += lower[n];
      total.sum[3][n] += lower[2 + n];
    }
  } else {
    constexpr int groupBlocks = moeplan_format_group_size(Format) / 32;
    constexpr int groupBytes = groupBlocks * blockBytes + 32;
    constexpr float zeroStep = float(1 << Loads::kBits) / 256.0f;
    constexpr int kGroups = kUnroll > groupBlocks ? kUnroll / groupBlocks : 1;
#pragma unroll kGroups
    for (int block = begin; block < end; block += groupBlocks) {
      const char *group = tile + block / groupBlocks * groupBytes;
      const int count = end - block < groupBlocks ? end - block : groupBlocks;
      Loads loads[groupBlocks];
#pragma unroll
      for (int i = 0; i < groupBlocks; ++i)
        if (i < count)
          loads[i].load(group + i * blockBytes + quad * 16);
      const uint32_t scales = *(const uint32_t *)(group + count * blockBytes + quad * 4);
      const uint32_t zeros = *(const uint32_t *)(group + count * blockBytes + 16 + quad * 4);
      float upper[4] = {}, lower[4] = {}, sums[4] = {};
#pragma unroll
      for (int i = 0; i < groupBlocks; ++i)
        if (i < count) {
          product(loads[i], activations.template prepare<false>(block + i), upper, lower, sums);
          if constexpr (kSingle)
            sums[0] += activations.sum(block + i);
        }
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float scale = __uint_as_float(((scales >> 8 * r & 255u) << 20) + MOEPLAN_SCALE_BIAS);
        const float zero = float(zeros >> 8 * r & 255u) * zeroStep + Loads::kBias;
        for (int n = 0; n < kResults; ++n) {
          const float value = r < 2 ? upper[2 * (r % 2) + n] : lower[2 * (r % 2) + n];
          total.sum[r][n] += scale * (value - zero * sums[n]);
        }
      }
    }
  }
}

} // namespace moeplan
