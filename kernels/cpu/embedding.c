#include "packed.h"

void moeplan_cpu_embedding(MOEPLAN_TILE_RANGE, const int32_t *restrict tokens,
                           const void *restrict table, float *restrict out, int64_t features,
                           int64_t vocab_size, int64_t weight_format) {
  (void)step;
  for (uint64_t token = tile_begin; token < tile_end; ++token) {
    float *target = out + token * features;
    if (moeplan_format_is_packed((unsigned)weight_format)) {
      const packed_weight packed = {table, vocab_size, features,
                                    moeplan_format_bits((unsigned)weight_format),
                                    5 + ((int)weight_format - MOEPLAN_FORMAT_INT8G32) % 3};
      for (int64_t i = 0; i < features; ++i)
        target[i] = packed_element(packed, tokens[token], i);
    } else {
      const void *row = weight_row(weight_format, table, tokens[token], features);
      for (int64_t i = 0; i < features; ++i)
        target[i] = load_weight(weight_format, row, i);
    }
  }
}
