/* The inner loop of every matrix product here:
 *
 *   out[t][r] = sum_k x[t][k] * w[r][k]       t < TOKENS, r < ROWS, both constants
 *
 * TOKENS * ROWS accumulators stay in registers; each weight is loaded and widened once for TOKENS
 * uses, each activation once for ROWS uses. An element's sum runs in the same order whatever TOKENS
 * and ROWS are, so a token's result does not depend on the chunk it came in.
 */
#ifndef MOEPLAN_KERNELS_CPU_DOT_H
#define MOEPLAN_KERNELS_CPU_DOT_H

#include "simd.h"

/* 16 accumulators and the operands beside them need 32 registers; with 16 there is room for 8. */
enum { TOKEN_TILE = 4, ROW_TILE = MOEPLAN_LANES >= 16 ? 4 : 2, ROW_TILE_SINGLE = 4 };

#define UNROLL _Pragma("clang loop unroll(full)")
/* For loops over columns: their body fills the pipeline already, and unrolled by the constant of a
 * shape it would only grow. */
#define ROLLED _Pragma("clang loop unroll(disable) vectorize(disable)")

INLINE void dot_tile(int64_t format, const float *const *x, const void *w, int64_t row,
                     int64_t columns, const int tokens, const int rows, float *out) {
  vfloat sum[4 * 4];
  const void *w_row[4];
  UNROLL for (int r = 0; r < rows; ++r) w_row[r] = weight_row(format, w, row + r, columns);
  UNROLL for (int i = 0; i < tokens * rows; ++i) sum[i] = (vfloat){0};
  int64_t k = 0;
  ROLLED for (; k + MOEPLAN_LANES <= columns; k += MOEPLAN_LANES) {
    vfloat xs[4];
    UNROLL for (int t = 0; t < tokens; ++t) xs[t] = load_f32(x[t] + k);
    UNROLL for (int r = 0; r < rows; ++r) {
      vfloat weights = load_weights(format, w_row[r], k);
      UNROLL for (int t = 0; t < tokens; ++t) sum[t * rows + r] += xs[t] * weights;
    }
  }
  UNROLL for (int i = 0; i < tokens * rows; ++i) out[i] = sum_lanes(sum[i]);
  ROLLED for (; k < columns; ++k) UNROLL for (int i = 0; i < tokens * rows; ++i) out[i] +=
      x[i / rows][k] * load_weight(format, w_row[i % rows], k);
}

/* What a caller does with a finished block: called with constants `tokens` and `rows`, `out` as
 * above, for tokens `token` .. and weight rows `row` .. */
#define FOR_ROW_BLOCKS(row, row_end, row_tile, BODY)                                               \
  do {                                                                                             \
    for (; row + row_tile <= row_end; row += row_tile) {                                           \
      enum { rows = row_tile };                                                                    \
      BODY                                                                                         \
    }                                                                                              \
    for (; row < row_end; ++row) {                                                                 \
      enum { rows = 1 };                                                                           \
      BODY                                                                                         \
    }                                                                                              \
  } while (0)

#define FOR_TOKEN_BLOCKS(token, token_end, BODY)                                                   \
  do {                                                                                             \
    for (; token + TOKEN_TILE <= token_end; token += TOKEN_TILE) {                                 \
      enum { tokens = TOKEN_TILE };                                                                \
      BODY                                                                                         \
    }                                                                                              \
    for (; token < token_end; ++token) {                                                           \
      enum { tokens = 1 };                                                                         \
      BODY                                                                                         \
    }                                                                                              \
  } while (0)

/* Runs BODY with a constant `format`: for each format of the set `formats`, where `actual` is it.
 */
#define WITH_FORMAT(formats, actual, BODY)                                                         \
  do {                                                                                             \
    if (((formats) & (1 << MOEPLAN_FORMAT_F32)) && (actual) == MOEPLAN_FORMAT_F32) {               \
      enum { format = MOEPLAN_FORMAT_F32 };                                                        \
      BODY                                                                                         \
    }                                                                                              \
    if (((formats) & (1 << MOEPLAN_FORMAT_BF16)) && (actual) == MOEPLAN_FORMAT_BF16) {             \
      enum { format = MOEPLAN_FORMAT_BF16 };                                                       \
      BODY                                                                                         \
    }                                                                                              \
  } while (0)

#endif
