#include "dot.h"
#include "quantize.h"

/* Rows row_begin .. row_end - 1 of y (+)= w x for tokens token_begin .. token_end - 1. */
INLINE void linear_rows(const void *x, int64_t x_forms, const void *data, float *y,
                        int64_t in_features, int64_t out_features, int64_t weight_format,
                        int64_t token_begin, int64_t token_end, int64_t row_begin, int64_t row_end,
                        int64_t accumulate, int64_t prefetch, int64_t unroll, const int single) {
  const operand_rows rows_of_x = operand_form(x, x_forms, weight_format, in_features, 0);
  WITH_FORMAT(1 << weight_format, weight_format, {
    const weight w = {data, out_features, in_features, format, group_shift, prefetch, unroll};
    FOR_TILES(w, single, token_begin, token_end, row_begin, row_end, rows_of_x, {
      for (int t = 0; t < live; ++t)
        for (int r = 0; r < valid; ++r) {
          float *target = y + (token + t) * out_features + row + r;
          *target = accumulate ? *target + out[t * rows + r] : out[t * rows + r];
        }
    });
  });
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void moeplan_cpu_linear(MOEPLAN_TILE_RANGE, const void *restrict x, const void *restrict w,
                        float *restrict y, int64_t in_features, int64_t out_features,
                        int64_t weight_format, int64_t x_forms, int64_t rows_per_tile,
                        int64_t accumulate, int64_t logits_rows, int64_t prefetch, int64_t unroll) {
  linear_rows(x, x_forms, w, y, in_features, out_features, weight_format,
              logits_rows ? step->logits_begin : 0, step->token_count, tile_begin * rows_per_tile,
              smaller(tile_end * rows_per_tile, out_features), accumulate, prefetch, unroll, 0);
}

void moeplan_cpu_vector_linear(MOEPLAN_TILE_RANGE, const float *restrict x,
                               const float *restrict scale, const void *restrict w,
                               float *restrict y, int64_t in_features, int64_t out_features,
                               int64_t normalize, double epsilon, int64_t weight_format,
                               int64_t rows_per_tile, int64_t accumulate, int64_t logits_rows,
                               int64_t prefetch, int64_t unroll) {
  if (tile_begin == tile_end || (logits_rows && step->logits_begin))
    return;
  const int64_t forms = moeplan_form_of(weight_format);
  float scratch[in_features];
  _Alignas(64) char operand[moeplan_operand_bytes(forms, in_features)];
  make_operand(operand, forms, x, scale, in_features, normalize, epsilon, scratch);
  linear_rows(operand, forms, w, y, in_features, out_features, weight_format, 0, 1,
              tile_begin * rows_per_tile, smaller(tile_end * rows_per_tile, out_features),
              accumulate, prefetch, unroll, 1);
}

void moeplan_cpu_vector_qkv(MOEPLAN_TILE_RANGE, const float *restrict x,
                            const float *restrict scale, const void *restrict wq,
                            const void *restrict wk, const void *restrict wv, float *restrict q,
                            float *restrict k, float *restrict v, int64_t in_features,
                            int64_t q_features, int64_t kv_features, int64_t normalize,
                            double epsilon, int64_t weight_format, int64_t rows_per_tile,
                            int64_t prefetch, int64_t unroll) {
  (void)step;
  if (tile_begin == tile_end)
    return;
  const int64_t forms = moeplan_form_of(weight_format);
  float scratch[in_features];
  _Alignas(64) char operand[moeplan_operand_bytes(forms, in_features)];
  make_operand(operand, forms, x, scale, in_features, normalize, epsilon, scratch);
  /* The tiles of q, then those of k, then those of v. */
  const int64_t q_tiles = (q_features + rows_per_tile - 1) / rows_per_tile;
  const int64_t kv_tiles = (kv_features + rows_per_tile - 1) / rows_per_tile;
  ROLLED for (int part = 0; part < 3; ++part) {
    const int64_t tiles = part == 0 ? q_tiles : kv_tiles;
    const int64_t before = part == 0 ? 0 : q_tiles + (part - 1) * kv_tiles;
    const int64_t features = part == 0 ? q_features : kv_features;
    const int64_t begin = (int64_t)tile_begin > before ? (int64_t)tile_begin - before : 0;
    const int64_t end = smaller((int64_t)tile_end - before, tiles);
    if (begin < end)
      linear_rows(operand, forms,
                  part == 0   ? wq
                  : part == 1 ? wk
                              : wv,
                  part == 0   ? q
                  : part == 1 ? k
                              : v,
                  in_features, features, weight_format, 0, 1, begin * rows_per_tile,
                  smaller(end * rows_per_tile, features), 0, prefetch, unroll, 1);
  }
}
