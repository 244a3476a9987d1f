#include "simd.h"

void moeplan_cpu_embedding(MOEPLAN_TILE_RANGE, const int32_t *restrict tokens,
                           const void *restrict table, float *restrict out, int64_t features,
                           int64_t format) {
  (void)step;
  for (uint64_t token = tile_begin; token < tile_end; ++token) {
    const void *row = weight_row(format, table, tokens[token], features);
    for (int64_t i = 0; i < features; ++i)
      out[token * features + i] = load_weight(format, row, i);
  }
}
