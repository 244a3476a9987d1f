// Products of weights in any format with a tile of many rows of activations, on tensor cores.
//
// Weights become bf16 in registers, in the fragments of weights.cuh: scale * (code - zero), rounded
// once. Each of them is multiplied with all activations of the tile, which a block of threads
// shares: while its warps work on 128 columns, the next 128 are copied.
#pragma once

#include "product.cuh"
#include "rounded.cuh"

namespace moeplan {

/// Blocks of 32 columns in a step: whole groups of any format.
constexpr int kStepBlocks = 4;

/// The fragments of a lane's four rows of a block: [row][half][even, odd].
struct WeightFragments {
  uint32_t a[4][2][2];
};

/// The scales and zeros of a lane's four rows of a group, as its codes are turned into numbers.
template <int Format> struct GroupScales {
  static constexpr int kBits = moeplan_format_bits(Format);
  uint32_t scales, zeros; ///< a byte each

  __device__ float scale(int r) const {
    return __uint_as_float(((scales >> 8 * r & 255u) << 20) + MOEPLAN_SCALE_BIAS);
  }
  __device__ float zero(int r) const {
    return float(zeros >> 8 * r & 255u) * (float(1 << kBits) / 256.0f);
  }
  /// A number with 8 significant bits as both halves of a pair of bf16.
  __device__ static uint32_t pairOf(float value) {
    const uint32_t bits = __float_as_uint(value);
    return bits | bits >> 16;
  }

  /// Differences of codes and zeros have 8 significant bits: they are exact in bf16.
  __device__ void apply(const BlockLoads<Format> &loads, WeightFragments &out) const {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if constexpr (kBits == 8) {
        constexpr float magic = 8388608.0f; // 2^23: a byte in its lowest bits is added to it
        const float base = magic + zero(r), factor = scale(r);
        for (int half = 0; half < 2; ++half) {
          const uint32_t word = BlockLoads<Format>::row(loads.word[half], r);
          auto number = [&](uint32_t selector) {
            return (__uint_as_float(permute(word, 0x4b000000u, selector)) - base) * factor;
          };
          out.a[r][half][0] = toBf16Pair(number(0x7440), number(0x7442));
          out.a[r][half][1] = toBf16Pair(number(0x7441), number(0x7443));
        }
      } else {
        constexpr uint32_t one = 0x3f803f80u, bias = 0xc300c300u, none = 0x80008000u; // 1, -128, -0
        const uint32_t factor = pairOf(scale(r)), base = pairOf(-zero(r));
        for (int half = 0; half < 2; ++half) {
          loads.pairs(r, half, out.a[r][half][0], out.a[r][half][1]);
          for (uint32_t &pair : out.a[r][half]) {
            pair = multiplyAddPairs(pair, one, bias);
            pair = multiplyAddPairs(pair, one, base);
            pair = multiplyAddPairs(pair, factor, none);
          }
        }
      }
    }
  }
};

/// A tile's activations of a step: bf16 rows of rounded.cuh, 32 columns of each.
template <int kTokens> using StepColumns = uint4[kStepBlocks][kTokens][4];

/// sum[n][r / 2][2 * (r % 2) + i]: row r of the lane's four (weights.cuh) with row 8 n + 2 (lane %
/// 4)
/// + i of the activations.
template <int kTokens> struct MatrixSums {
  float sum[kTokens / 8][2][4];

  __device__ float at(int n, int r, int i) const { return sum[n][r / 2][2 * (r % 2) + i]; }

  /// use(row of activations, sums of the lane's four rows), for all that the lane has.
  template <typename Use> __device__ void each(Use &&use) const {
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float four[4] = {at(n, 0, i), at(n, 1, i), at(n, 2, i), at(n, 3, i)};
        use(8 * n + 2 * (lane() % 4) + i, four);
      }
  }

  __device__ void add(const WeightFragments &weights, const uint4 (*columns)[4]) {
    const auto &a = weights.a;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
      const uint4 x = columns[8 * n + lane() / 4][lane() % 4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t even = half ? x.z : x.x, odd = half ? x.w : x.y;
        for (int pair = 0; pair < 2; ++pair)
          multiplyAdd(sum[n][pair], a[2 * pair][half][0], a[2 * pair + 1][half][0],
                      a[2 * pair][half][1], a[2 * pair + 1][half][1], even, odd);
      }
    }
  }
};

/// Bytes of a tile of 16 rows that a whole step takes.
template <int Format> constexpr int stepBytes() {
  return int(tileBytes<Format>(kStepBlocks * MOEPLAN_BLOCK_COLUMNS));
}

/// Adds a step of `columns` columns: `rows` is the lane's tile there.
template <int Format, int kTokens>
__device__ inline void multiplyStep(const char *rows, int columns, const StepColumns<kTokens> &x,
                                    MatrixSums<kTokens> &sums) {
  using Loads = BlockLoads<Format>;
  constexpr int blockBytes = Loads::kBits * 64;
  const int quad = lane() / 4 % 4, blocks = (columns + 31) / 32;
  rows += quad * 16;
  WeightFragments weights;
  if constexpr (Loads::kPairs) {
#pragma unroll
    for (int block = 0; block < kStepBlocks; ++block) {
      if (block >= blocks)
        break;
      Loads loads;
      loads.load(rows + block * blockBytes, columns - 32 * block);
      for (int r = 0; r < 4; ++r)
        for (int half = 0; half < 2; ++half) { // columns (0, 1), (2, 3) to (0, 2), (1, 3)
          uint32_t first, second;
          loads.pairs(r, half, first, second);
          weights.a[r][half][0] = permute(first, second, 0x5410);
          weights.a[r][half][1] = permute(first, second, 0x7632);
        }
      sums.add(weights, x[block]);
    }
  } else {
    constexpr int groupBlocks = moeplan_format_group_size(Format) / 32;
    constexpr int groupBytes = groupBlocks * blockBytes + 32;
#pragma unroll
    for (int first = 0; first < kStepBlocks; first += groupBlocks) {
      if (first >= blocks)
        break;
      const int count = blocks - first < groupBlocks ? blocks - first : groupBlocks;
      const char *group = rows + first / groupBlocks * groupBytes;
      Loads loads[groupBlocks];
#pragma unroll
      for (int i = 0; i < groupBlocks; ++i)
        if (i < count)
          loads[i].load(group + i * blockBytes);
      const char *ends = group + count * blockBytes - quad * 12; // scales take a byte a row
      const GroupScales<Format> scales{*(const uint32_t *)ends, *(const uint32_t *)(ends + 16)};
#pragma unroll
      for (int i = 0; i < groupBlocks; ++i)
        if (i < count) {
          scales.apply(loads[i], weights);
          sums.add(weights, x[first + i]);
        }
    }
  }
}

/// The product of a block of threads: each warp has 32 rows of weights, all have the same kTokens
/// rows of kColumns activations.
template <int kThreads, int kColumns, int kTokens> struct Matrix {
  static constexpr int kStride = roundedColumns(kColumns);
  static constexpr int kStepColumns = kStepBlocks * MOEPLAN_BLOCK_COLUMNS;
  static constexpr int kSteps = (kColumns + kStepColumns - 1) / kStepColumns;
  static_assert(kTokens % 8 == 0);

  struct Shared {
    StepColumns<kTokens> columns[2];
    int rows[kTokens];
  };
  Shared &shared;
  const uint16_t *activations; ///< [rows][kStride]

  /// `rowOf` gives the row of activations of each of the tile's, -1: zeros. `weight` as tileOf()
  /// wants it. The threads have met when it returns.
  template <long long kFormats, typename RowOf>
  __device__ void multiply(const void *weight, int format, int firstTile, int secondTile,
                           int64_t rows, RowOf &&rowOf, MatrixSums<kTokens> &sums) {
    const char *tile = nullptr;
    withFormat<kFormats>(format, [&]<int kFormat>() {
      tile = tileOf<kFormat>(weight, firstTile, secondTile, rows, kColumns);
    });
    for (int i = threadIdx.x; i < kTokens; i += kThreads)
      shared.rows[i] = rowOf(i);
    sums = {};
    __syncthreads();
    begin(0);
    for (int step = 0; step < kSteps; ++step) {
      if (step + 1 < kSteps)
        begin(step + 1);
      commitCopies(); // of nothing behind the last step: as many groups as in all others
      waitForCopies<1>();
      __syncthreads();
      withFormat<kFormats>(format, [&]<int kFormat>() {
        const int left = kColumns - step * kStepColumns;
        multiplyStep<kFormat, kTokens>(tile + int64_t(step) * stepBytes<kFormat>(),
                                       left < kStepColumns ? left : kStepColumns,
                                       shared.columns[step % 2], sums);
      });
      __syncthreads();
    }
  }

private:
  /// Begins to copy what a step reads.
  __device__ void begin(int step) {
    constexpr int kPieces = kStepColumns / 8; // of 16 bytes, of a row
    for (int i = threadIdx.x; i < kTokens * kPieces; i += kThreads) {
      const int token = i / kPieces, piece = i % kPieces, row = shared.rows[token];
      const int column = step * kStepColumns + 8 * piece;
      if (column < kStride)
        copyAsync(&shared.columns[step % 2][piece / 4][token][piece % 4],
                  activations + int64_t(row < 0 ? 0 : row) * kStride + column, row >= 0);
    }
    if (step == 0)
      commitCopies();
  }
};

} // namespace moeplan
