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

#include "packed.h"

/* 16 accumulators and the operands beside them need 32 registers; with 16 there is room for 8. */
enum { TOKEN_TILE = 4, ROW_TILE = MOEPLAN_LANES >= 16 ? 4 : 2, ROW_TILE_SINGLE = 4 };

/* f32 and bf16, whose rows are contiguous. */
INLINE void row_dot_tile(int64_t format, const float *const *x, const void *w, int64_t row,
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

/* Rows `row` .. row + rows - 1 of a weight of `weight_rows` x `columns`. `format` is a constant,
 * f32, bf16 or, for all group sizes, the first packed format of its bits; see WITH_FORMAT. */
#define DOT_TILE(x, w, weight_rows, row, columns, tokens, rows, out)                               \
  do {                                                                                             \
    if (format >= MOEPLAN_FORMAT_INT8G32) {                                                        \
      const packed_weight packed = {w, weight_rows, columns, moeplan_format_bits(format),          \
                                    group_shift};                                                  \
      packed_dot_tile(packed, x, row, tokens, out);                                                \
    } else {                                                                                       \
      row_dot_tile(format, x, w, row, columns, tokens, rows, out);                                 \
    }                                                                                              \
  } while (0)

/* The body says what a caller does with a finished block: it runs with constants `tokens` and
 * `rows`, `out` as above, for tokens `token` .. and weight rows `row` .. */
#define FOR_ROWS(row, row_end, row_tile, ...)                                                      \
  do {                                                                                             \
    for (; row + row_tile <= row_end; row += row_tile) {                                           \
      enum { rows = row_tile };                                                                    \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
    for (; row < row_end; ++row) {                                                                 \
      enum { rows = 1 };                                                                           \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  } while (0)

/* Covers tokens token_begin .. token_end - 1 times rows row_begin .. row_end - 1 of a weight of the
 * `format` at hand with blocks: the body runs with constants `tokens` and `rows` for tokens `token`
 * .. and rows `row` .., of which the first `valid` are wanted: a vector of packed rows may reach
 * beyond the last. A single token, which is bound by memory, takes more rows at once where rows are
 * contiguous; packed rows always come as a vector. */
#define FOR_BLOCKS(token_begin, token_end, row_begin, row_end, ...)                                \
  do {                                                                                             \
    if (format >= MOEPLAN_FORMAT_INT8G32) {                                                        \
      for (int64_t row = row_begin; row < row_end; row += MOEPLAN_LANES) {                         \
        enum { rows = MOEPLAN_LANES };                                                             \
        const int64_t valid = row_end - row < rows ? row_end - row : rows;                         \
        int64_t token = token_begin;                                                               \
        FOR_TOKENS(token, token_end, __VA_ARGS__);                                                 \
      }                                                                                            \
    } else if (token_end - token_begin == 1) {                                                     \
      const int64_t token = token_begin;                                                           \
      enum { tokens = 1 };                                                                         \
      int64_t row = row_begin;                                                                     \
      FOR_ROWS(row, row_end, ROW_TILE_SINGLE, {                                                    \
        enum { valid = rows };                                                                     \
        __VA_ARGS__                                                                                \
      });                                                                                          \
    } else {                                                                                       \
      int64_t row = row_begin;                                                                     \
      FOR_ROWS(row, row_end, ROW_TILE, {                                                           \
        enum { valid = rows };                                                                     \
        int64_t token = token_begin;                                                               \
        FOR_TOKENS(token, token_end, __VA_ARGS__);                                                 \
      });                                                                                          \
    }                                                                                              \
  } while (0)

#define FOR_TOKENS(token, token_end, ...)                                                          \
  do {                                                                                             \
    for (; token + TOKEN_TILE <= token_end; token += TOKEN_TILE) {                                 \
      enum { tokens = TOKEN_TILE };                                                                \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
    for (; token < token_end; ++token) {                                                           \
      enum { tokens = 1 };                                                                         \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  } while (0)

/* Runs a body with a constant `format`: for each format of the set `formats`, where `actual` is it.
 * Packed formats of the same bits share a body, with `group_shift` as the only difference; where
 * the set has one of them alone, that is a constant too. */
#define WITH_FORMAT(formats, actual, ...)                                                          \
  do {                                                                                             \
    WITH_ROW_FORMAT(formats, actual, MOEPLAN_FORMAT_F32, __VA_ARGS__);                             \
    WITH_ROW_FORMAT(formats, actual, MOEPLAN_FORMAT_BF16, __VA_ARGS__);                            \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT8G32, __VA_ARGS__);                      \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT4G32, __VA_ARGS__);                      \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT3G32, __VA_ARGS__);                      \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT2G32, __VA_ARGS__);                      \
  } while (0)

#define WITH_ROW_FORMAT(formats, actual, candidate, ...)                                           \
  if (((formats) & (1 << (candidate))) && (actual) == (candidate)) {                               \
    enum { format = (candidate), group_shift = 0 };                                                \
    __VA_ARGS__                                                                                    \
  }

#define WITH_PACKED_FORMAT(formats, actual, first, ...)                                            \
  if (((formats) & (7 << (first))) && (actual) >= (first) && (actual) < (first) + 3) {             \
    enum { format = (first) };                                                                     \
    const int64_t occurring = (formats) >> (first) & 7;                                            \
    const int group_shift = 5 + (occurring == 1   ? 0                                              \
                                 : occurring == 2 ? 1                                              \
                                 : occurring == 4 ? 2                                              \
                                                  : (int)(actual) - (first));                      \
    __VA_ARGS__                                                                                    \
  }

#endif
