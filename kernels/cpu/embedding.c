#include "packed.h"

INLINE float table_element(const void *table, int64_t row, int64_t column, int64_t rows,
                           int64_t columns, int64_t format) {
  if (format == MOEPLAN_FORMAT_F32)
    return ((const float *)table)[row * columns + column];
  if (format == MOEPLAN_FORMAT_BF16)
    return bf16_to_f32(((const uint16_t *)table)[MOEPLAN_PAIR_INDEX(row, column, columns)]);
  const packed_weight packed = {table, rows, columns, moeplan_format_bits((unsigned)format),
                                5 + ((int)format - MOEPLAN_FORMAT_INT8G32) % 3};
  return packed_element(packed, row, column);
}

void moeplan_cpu_embedding(MOEPLAN_TILE_RANGE, const int32_t *restrict tokens,
                           const void *restrict table, float *restrict out, int64_t features,
                           int64_t vocab_size, int64_t weight_format) {
  (void)step;
  for (uint64_t token = tile_begin; token < tile_end; ++token)
    for (int64_t i = 0; i < features; ++i)
      out[token * features + i] =
          table_element(table, tokens[token], i, vocab_size, features, weight_format);
}
