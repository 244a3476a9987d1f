/* The KV cache of a layer: [num_kv_heads] caches of kv_capacity positions (a multiple of 32), each
 * position `moeplan_kv_row_bytes` (kernel_abi.h).
 *
 *   F32   float32 [kv_capacity][head_dim]
 *   INT8  [kv_capacity] rows of int8 [head_dim, padded to 4] and a float32 scale: max |x| / 127
 *   BF16  as weights of a product, so that attention is two of them:
 *           keys    [kv_capacity / 16][pairs of dimensions][16 positions][2]
 *           values  [head_dim / 16][pairs of positions][16 dimensions][2]
 *         with head_dim padded to a multiple of 16 by zeros, which the runtime's fresh memory holds.
 */
#ifndef MOEPLAN_KERNELS_CPU_KV_CACHE_H
#define MOEPLAN_KERNELS_CPU_KV_CACHE_H

#include "packed.h"
#include "quantize.h"

INLINE int64_t padded_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

INLINE char *kv_head(void *cache, int64_t head, int64_t kv_capacity, int64_t head_dim,
                     int64_t kv_format) {
  return (char *)cache +
         head * kv_capacity * moeplan_kv_row_bytes((unsigned)kv_format, (unsigned)head_dim);
}

/* Where dimension i of a position is in a BF16 cache of one head. */
INLINE int64_t bf16_key_index(int64_t position, int64_t i, int64_t head_dim) {
  return ((position / 16 * (padded_dim(head_dim) / 2) + i / 2) * 16 + position % 16) * 2 + i % 2;
}
INLINE int64_t bf16_value_index(int64_t position, int64_t i, int64_t kv_capacity) {
  return ((i / 16 * (kv_capacity / 2) + position / 2) * 16 + i % 16) * 2 + position % 2;
}

INLINE void store_int8_row(char *row, const float *x, int64_t head_dim) {
  /* Compared as integers, as in quantize.h: infinity and NaN reach the scale and are not lost. */
  uint32_t largest = 0;
  for (int64_t i = 0; i < head_dim; ++i) {
    uint32_t magnitude;
    __builtin_memcpy(&magnitude, x + i, 4);
    magnitude &= 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  float maximum;
  __builtin_memcpy(&maximum, &largest, 4);
  const float inverse = maximum > 1e-35f ? 127 / maximum : 0;
  for (int64_t i = 0; i < head_dim; ++i) {
    const float rounded = x[i] * inverse + ROUNDING_OFFSET;
    uint32_t bits;
    __builtin_memcpy(&bits, &rounded, 4);
    ((int8_t *)row)[i] = (int8_t)bits;
  }
  *(float *)(row + (head_dim + 3) / 4 * 4) = maximum * (1.0f / 127);
}

/* Puts the key and the value of a position into the cache of one head. */
INLINE void store_kv(char *keys, char *values, int64_t position, const float *key,
                     const float *value, int64_t head_dim, int64_t kv_capacity,
                     int64_t kv_format) {
  if (kv_format == MOEPLAN_KV_BF16) {
    for (int64_t i = 0; i < head_dim; ++i) {
      ((uint16_t *)keys)[bf16_key_index(position, i, head_dim)] = f32_to_bf16(key[i]);
      ((uint16_t *)values)[bf16_value_index(position, i, kv_capacity)] = f32_to_bf16(value[i]);
    }
    return;
  }
  const int64_t bytes = moeplan_kv_row_bytes((unsigned)kv_format, (unsigned)head_dim);
  if (kv_format == MOEPLAN_KV_INT8) {
    store_int8_row(keys + position * bytes, key, head_dim);
    store_int8_row(values + position * bytes, value, head_dim);
    return;
  }
  for (int64_t i = 0; i < head_dim; ++i) {
    ((float *)(keys + position * bytes))[i] = key[i];
    ((float *)(values + position * bytes))[i] = value[i];
  }
}

/* A BF16 value product reads positions in fours: those behind the last one, which another sequence
 * may have left there, become zero. */
INLINE void clear_behind(char *values, int64_t last_position, int64_t head_dim, int64_t kv_capacity,
                         int64_t kv_format) {
  if (kv_format != MOEPLAN_KV_BF16)
    return;
  for (int64_t position = last_position + 1; position % 4; ++position)
    for (int64_t i = 0; i < head_dim; ++i)
      ((uint16_t *)values)[bf16_value_index(position, i, kv_capacity)] = 0;
}

/* out = x rotated: element i pairs with i + head_dim / 2; table [head_dim / 2] of (cos, sin). */
INLINE void rotate(const float *x, const float *table, float *out, int64_t head_dim) {
  const int64_t pairs = head_dim / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[i], b = x[i + pairs];
    const float cosine = table[2 * i], sine = table[2 * i + 1];
    out[i] = a * cosine - b * sine;
    out[i + pairs] = b * cosine + a * sine;
  }
}

#endif
