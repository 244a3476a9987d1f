/* The inner loop of every matrix product here:
 *
 *   out[t][r] = sum_k x[t][k] * w[r][k]       t < tokens, r < rows, both constants
 *
 * tokens * rows accumulators stay in registers; each weight is loaded and widened once for all
 * tokens. An element's sum runs in the same order whatever `tokens` and `rows` are, so a token's
 * result does not depend on the chunk it came in.
 */
#ifndef MOEPLAN_KERNELS_CPU_DOT_H
#define MOEPLAN_KERNELS_CPU_DOT_H

#include "packed.h"

/* Tokens that share a load of weights. Formats in tiles have a vector of rows per token, and beside
 * the sums registers for unpacked codes: 8 with 32 registers, 4 with 16. Of f32, whose rows are
 * contiguous, a tile is TOKENS x ROWS. */
enum {
  TOKEN_TILE = MOEPLAN_LANES >= 16 ? 8 : 4,
  F32_TOKEN_TILE = 4,
  F32_ROW_TILE = MOEPLAN_LANES >= 16 ? 4 : 2,
  F32_ROW_TILE_SINGLE = 4
};

/* f32, whose rows are contiguous: x and w [.., columns]. */
INLINE void f32_dot_tile(const float *const *x, const float *w, int64_t row, int64_t columns,
                         const int tokens, const int rows, float *out) {
  vfloat sum[4 * 4];
  const float *w_row[4];
  UNROLL for (int r = 0; r < rows; ++r) w_row[r] = w + (row + r) * columns;
  UNROLL for (int i = 0; i < tokens * rows; ++i) sum[i] = (vfloat){0};
  int64_t k = 0;
  ROLLED for (; k + MOEPLAN_LANES <= columns; k += MOEPLAN_LANES) {
    vfloat xs[4];
    UNROLL for (int t = 0; t < tokens; ++t) xs[t] = load_f32(x[t] + k);
    UNROLL for (int r = 0; r < rows; ++r) {
      vfloat weights = load_f32(w_row[r] + k);
      UNROLL for (int t = 0; t < tokens; ++t) sum[t * rows + r] += xs[t] * weights;
    }
  }
  UNROLL for (int i = 0; i < tokens * rows; ++i) out[i] = sum_lanes(sum[i]);
  ROLLED for (; k < columns; ++k) UNROLL for (int i = 0; i < tokens * rows; ++i) out[i] +=
      x[i / rows][k] * w_row[i % rows][k];
}

/* A weight as a kernel meets it; all but the pointer are constants once inlined. */
typedef struct {
  const void *data;
  int64_t rows, columns;
  int64_t format; /* f32, bf16 or, for all group sizes, the first packed format of its bits */
  int group_shift;
  int64_t prefetch; /* bytes ahead, 0: none */
  int64_t unroll;   /* stretches per turn */
} weight;

/* The operand rows of some tokens, from where the form that the weight at hand is multiplied with
 * starts. Token t's is row index[t], or row t where `index` is null. */
typedef struct {
  const char *data;
  int64_t row_bytes;
  const uint32_t *index;
} operand_rows;

INLINE operand_rows operand_form(const void *data, int64_t forms, int64_t format, int64_t columns,
                                 const uint32_t *index) {
  const operand_rows rows = {(const char *)data +
                                 moeplan_form_offset(forms, moeplan_form_of(format), columns),
                             moeplan_operand_bytes(forms, columns), index};
  return rows;
}

/* x: for each token the form of its operand that `w.format` is multiplied with. */
INLINE void dot_tile(weight w, const char *const *x, int64_t row, const int tokens, const int rows,
                     float *out) {
  if (w.format == MOEPLAN_FORMAT_F32) {
    f32_dot_tile((const float *const *)x, (const float *)w.data, row, w.columns, tokens, rows, out);
  } else if (w.format == MOEPLAN_FORMAT_BF16) {
    pair_dot_tile(w.data, w.columns, x, row, tokens, w.prefetch, w.unroll, out);
  } else {
    const packed_weight packed = {w.data, w.rows, w.columns,
                                  moeplan_format_bits((unsigned)w.format), w.group_shift};
    packed_dot_tile(packed, x, row, tokens, w.prefetch, w.unroll, out);
  }
}

/* Covers tokens token_begin .. token_end - 1 times rows row_begin .. row_end - 1 of `w` with tiles
 * and computes each. Then the body runs: with constants `tokens` and `rows`, and
 * out[t * rows + r] for tokens `token` + t, of which the first `live` are wanted, and rows `row` +
 * r, of which the first `valid` are: a vector of rows may reach beyond the last one.
 * `single` (a constant): there is one token. */
#define FOR_TILES(w, single, token_begin, token_end, row_begin, row_end, x, ...)                   \
  do {                                                                                             \
    int64_t row = row_begin;                                                                       \
    if ((w).format == MOEPLAN_FORMAT_F32) {                                                        \
      if (single)                                                                                  \
        FOR_ROW_TILES(row, row_end, F32_ROW_TILE_SINGLE,                                           \
                      TOKEN_TILES_OF(w, 1, token_begin, token_end, x, __VA_ARGS__));               \
      else                                                                                         \
        FOR_ROW_TILES(row, row_end, F32_ROW_TILE,                                                  \
                      TOKEN_TILES_OF(w, F32_TOKEN_TILE, token_begin, token_end, x, __VA_ARGS__));  \
    } else {                                                                                       \
      ROLLED for (; row < row_end; row += MOEPLAN_LANES) {                                         \
        enum { rows = MOEPLAN_LANES };                                                             \
        const int valid = row_end - row < rows ? (int)(row_end - row) : (int)rows;                 \
        (void)valid;                                                                               \
        if (single) {                                                                              \
          TOKEN_TILES_OF(w, 1, token_begin, token_end, x, __VA_ARGS__);                            \
        } else {                                                                                   \
          TOKEN_TILES_OF(w, TOKEN_TILE, token_begin, token_end, x, __VA_ARGS__);                   \
        }                                                                                          \
      }                                                                                            \
    }                                                                                              \
  } while (0)

#define FOR_ROW_TILES(row, row_end, row_tile, ...)                                                 \
  do {                                                                                             \
    ROLLED for (; row + row_tile <= row_end; row += row_tile) {                                    \
      enum { rows = row_tile, valid = rows };                                                      \
      __VA_ARGS__;                                                                                 \
    }                                                                                              \
    ROLLED for (; row < row_end; ++row) {                                                          \
      enum { rows = 1, valid = rows };                                                             \
      __VA_ARGS__;                                                                                 \
    }                                                                                              \
  } while (0)

/* Whole token tiles, then one of the smallest of 1, 2, 4, .. that holds the rest: beyond `live` it
 * repeats the last token. */
#define TOKEN_TILES_OF(w, token_tile, token_begin, token_end, x, ...)                              \
  do {                                                                                             \
    int64_t token = token_begin;                                                                   \
    if (token_tile > 1) {                                                                          \
      ROLLED for (; token_end - token > token_tile / 2; token += token_tile)                       \
          ONE_TILE(w, token_tile, token_end, x, __VA_ARGS__);                                      \
      if (token_tile > 4 && token_end - token > 2) {                                               \
        ONE_TILE(w, 4, token_end, x, __VA_ARGS__);                                                 \
        token = token_end;                                                                         \
      }                                                                                            \
      if (token_end - token == 2) {                                                                \
        ONE_TILE(w, 2, token_end, x, __VA_ARGS__);                                                 \
        token = token_end;                                                                         \
      }                                                                                            \
    }                                                                                              \
    if (token < token_end)                                                                         \
      ONE_TILE(w, 1, token_end, x, __VA_ARGS__);                                                   \
  } while (0)

#define ONE_TILE(w, token_count, token_end, x, ...)                                                \
  do {                                                                                             \
    enum { tokens = token_count };                                                                 \
    const int live = token_end - token < tokens ? (int)(token_end - token) : (int)tokens;          \
    const char *x_rows[tokens];                                                                    \
    float out[tokens * rows];                                                                      \
    UNROLL for (int t = 0; t < tokens; ++t) {                                                      \
      const int64_t at = token + (t < live ? t : live - 1);                                        \
      x_rows[t] = (x).data + ((x).index ? (int64_t)(x).index[at] : at) * (x).row_bytes;            \
    }                                                                                              \
    dot_tile(w, x_rows, row, tokens, rows, out);                                                   \
    __VA_ARGS__                                                                                    \
  } while (0)

/* Runs a body with a constant `format`: for each format of the set `formats`, where `actual` is it.
 * Packed formats of the same bits share a body, with `group_shift` as the only difference; where
 * the set has one of them alone, that is a constant too. */
#define WITH_FORMAT(formats, actual, ...)                                                          \
  do {                                                                                             \
    WITH_PLAIN_FORMAT(formats, actual, MOEPLAN_FORMAT_F32, __VA_ARGS__);                           \
    WITH_PLAIN_FORMAT(formats, actual, MOEPLAN_FORMAT_BF16, __VA_ARGS__);                          \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT8G32, __VA_ARGS__);                      \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT4G32, __VA_ARGS__);                      \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT3G32, __VA_ARGS__);                      \
    WITH_PACKED_FORMAT(formats, actual, MOEPLAN_FORMAT_INT2G32, __VA_ARGS__);                      \
  } while (0)

#define WITH_PLAIN_FORMAT(formats, actual, candidate, ...)                                         \
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
