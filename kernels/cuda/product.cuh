// What a block of threads does to multiply 32 rows of weights with up to 8 rows of activations: its
// warps share the columns, and the sums meet in shared memory.
#pragma once

#include "activations.cuh"

namespace moeplan {

/// Tokens that one product of weights takes.
constexpr int kProductTokens = 8;

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

/// The lane's tile of 16 rows: `first` for the lower lanes, `second` for the upper. Behind the last
/// tile the last one stands in, whose sums nobody stores.
template <int Format>
__device__ inline const char *tileOf(const void *weight, int first, int second, int64_t rows,
                                     int64_t columns) {
  const int tiles = int((rows + MOEPLAN_TILE_ROWS - 1) / MOEPLAN_TILE_ROWS);
  const int tile = lane() < 16 ? first : second;
  return (const char *)weight + (tile < tiles ? tile : tiles - 1) * tileBytes<Format>(columns);
}

/// Sums of kWeights weights over the same activations. Row i of the 32 is row i % 16 of the first
/// tile, then of the second.
template <int kThreads, int kColumns, bool kScaled, int kMaxTokens, int kWeights = 1>
struct Product {
  static_assert(kMaxTokens <= kProductTokens);
  static constexpr int kWarps = kThreads / kWarp, kUnroll = 4;
  static constexpr bool kSingle = kMaxTokens == 1;
  /// Rows of activations.
  static constexpr int kTokens = kSingle ? 1 : kProductTokens;
  static constexpr int kSums = kRowsPerWarp * kTokens;

  struct Shared {
    float partial[kWeights][kWarps][kSums];
    float squares[kWarps][kTokens];
    SharedActivations<kSingle, kColumns, kWarps> activations;
  };
  Shared &shared;

  /// The row whose columns the lane prepares.
  __device__ static int ownToken() { return kSingle ? 0 : lane() / 4; }

  /// Puts this warp's share of the sums into shared memory, as weight `index` of them. `row` is
  /// ownToken()'s; null: zeros. Behind the
  /// last weight, and before anything is read, the threads meet: synchronize().
  template <long long kFormats>
  __device__ void multiply(int index, const void *weight, int format, int firstTile, int secondTile,
                           int64_t rows, const float *row, const float *scale) {
    const BlockRange<kColumns, kWarps> range;
    RowSums sums = {};
    float square = 0;
    withFormat<kFormats>(format, [&]<int kFormat>() {
      const char *tile = tileOf<kFormat>(weight, firstTile, secondTile, rows, kColumns);
      if constexpr (kSingle) {
        StagedActivations<kColumns, kScaled, kWarps> activations{shared.activations, row, scale};
        activations.template stage<kFormat == MOEPLAN_FORMAT_BF16>(range);
        multiplyRows<kFormat, kColumns, kUnroll>(tile, range.begin, range.end, sums, activations);
        square = activations.square;
      } else {
        RowActivations<kColumns, kScaled> activations{row, scale};
        multiplyRows<kFormat, kColumns, kUnroll>(tile, range.begin, range.end, sums, activations);
        square = activations.square;
      }
    });
    store(shared.partial[index][warp()], sums);
    if constexpr (kScaled)
      storeSquare(square);
  }

  /// Sum `i` (row * kTokens + token) of a weight.
  __device__ float sum(int index, int i) const {
    float total = 0;
    for (int w = 0; w < kWarps; ++w)
      total += shared.partial[index][w][i];
    return total;
  }

  /// 1 / rms of a token's row; 1 without a norm.
  __device__ float factor(int token, double epsilon) const {
    if constexpr (!kScaled)
      return 1;
    float total = 0;
    for (int w = 0; w < kWarps; ++w)
      total += shared.squares[w][token];
    return rsqrtf(total / kColumns + float(epsilon));
  }

private:
  __device__ static void store(float *out, const RowSums &sums) {
    const int g = lane() / 4, t = lane() % 4;
    if (kSingle && t > 0)
      return;
    for (int r = 0; r < 4; ++r)
      for (int n = 0; n < (kSingle ? 1 : 2); ++n)
        out[(4 * g + r) * kTokens + 2 * t + n] = sums.sum[r][n];
  }

  __device__ void storeSquare(float square) {
    for (int mask = 1; mask < (kSingle ? kWarp : 4); mask *= 2)
      square += __shfl_xor_sync(~0u, square, mask);
    if (lane() % 4 == 0 && (!kSingle || lane() == 0))
      shared.squares[warp()][kSingle ? 0 : lane() / 4] = square;
  }
};

} // namespace moeplan
