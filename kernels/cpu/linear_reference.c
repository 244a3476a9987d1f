#include "reference.h"

#include <stdlib.h>

void moeplan_cpu_linear_reference(MOEPLAN_TILE_RANGE, const void *restrict x,
                                  const void *restrict w, float *restrict y, int64_t in_features,
                                  int64_t out_features, int64_t weight_format, int64_t x_forms,
                                  int64_t rows_per_tile, int64_t accumulate, int64_t logits_rows,
                                  int64_t prefetch, int64_t unroll) {
  (void)prefetch, (void)unroll;
  for (int64_t t = logits_rows ? step->logits_begin : 0; t < step->token_count; ++t)
    for (int64_t n = (int64_t)tile_begin * rows_per_tile;
         n < (int64_t)tile_end * rows_per_tile && n < out_features; ++n) {
      const double sum = reference_operand_dot(weight_format, w, out_features, n,
                                               reference_operand_row(x, t, x_forms, in_features),
                                               x_forms, in_features);
      y[t * out_features + n] = (float)(sum + (accumulate ? y[t * out_features + n] : 0));
    }
}

/* The operand of one row, on the heap. */
static void *vector_operand(const moeplan_step *step, const float *x, const float *scale,
                            int64_t features, int64_t normalize, double epsilon, int64_t forms) {
  void *operand = malloc((size_t)moeplan_operand_bytes(forms, features));
  moeplan_cpu_operand_reference(step, 0, 1, x, scale, operand, features, normalize, epsilon, forms,
                                0);
  return operand;
}

void moeplan_cpu_vector_linear_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                         const float *restrict scale, const void *restrict w,
                                         float *restrict y, int64_t in_features,
                                         int64_t out_features, int64_t normalize, double epsilon,
                                         int64_t weight_format, int64_t rows_per_tile,
                                         int64_t accumulate, int64_t logits_rows, int64_t prefetch,
                                         int64_t unroll) {
  const int64_t forms = moeplan_form_of(weight_format);
  void *operand = vector_operand(step, x, scale, in_features, normalize, epsilon, forms);
  moeplan_cpu_linear_reference(step, tile_begin, tile_end, operand, w, y, in_features, out_features,
                               weight_format, forms, rows_per_tile, accumulate, logits_rows,
                               prefetch, unroll);
  free(operand);
}

void moeplan_cpu_vector_qkv_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                      const float *restrict scale, const void *restrict wq,
                                      const void *restrict wk, const void *restrict wv,
                                      float *restrict q, float *restrict k, float *restrict v,
                                      int64_t in_features, int64_t q_features, int64_t kv_features,
                                      int64_t normalize, double epsilon, int64_t weight_format,
                                      int64_t rows_per_tile, int64_t prefetch, int64_t unroll) {
  const int64_t forms = moeplan_form_of(weight_format);
  void *operand = vector_operand(step, x, scale, in_features, normalize, epsilon, forms);
  const void *weights[] = {wq, wk, wv};
  float *results[] = {q, k, v};
  for (uint64_t tile = tile_begin; tile < tile_end; ++tile) {
    uint64_t local = tile;
    int part = 0;
    for (; part < 3; ++part) {
      const int64_t rows = part == 0 ? q_features : kv_features;
      const uint64_t tiles = (uint64_t)((rows + rows_per_tile - 1) / rows_per_tile);
      if (local < tiles)
        break;
      local -= tiles;
    }
    moeplan_cpu_linear_reference(step, local, local + 1, operand, weights[part], results[part],
                                 in_features, part == 0 ? q_features : kv_features, weight_format,
                                 forms, rows_per_tile, 0, 0, prefetch, unroll);
  }
  free(operand);
}
