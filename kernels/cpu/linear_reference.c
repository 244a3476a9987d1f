#include "reference.h"

void moeplan_cpu_linear_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                  const void *restrict w, float *restrict y, int64_t in_features,
                                  int64_t out_features, int64_t weight_format,
                                  int64_t rows_per_tile, int64_t accumulate, int64_t max_tokens,
                                  int64_t logits_rows) {
  (void)max_tokens;
  for (int64_t t = logits_rows ? step->logits_begin : 0; t < step->token_count; ++t)
    for (int64_t n = tile_begin * rows_per_tile;
         n < (int64_t)tile_end * rows_per_tile && n < out_features; ++n) {
      const double sum =
          reference_dot(weight_format, w, out_features, n, x + t * in_features, in_features);
      y[t * out_features + n] = (float)(sum + (accumulate ? y[t * out_features + n] : 0));
    }
}
