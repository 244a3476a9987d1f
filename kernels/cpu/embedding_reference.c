#include "reference.h"

void moeplan_cpu_embedding_reference(MOEPLAN_TILE_RANGE, const int32_t *restrict tokens,
                                     const void *restrict table, float *restrict out,
                                     int64_t features, int64_t vocab_size, int64_t weight_format) {
  (void)step;
  for (uint64_t t = tile_begin; t < tile_end; ++t)
    for (int64_t i = 0; i < features; ++i)
      out[t * features + i] =
          reference_element(weight_format, table, vocab_size, features, tokens[t], i);
}
