/* Reading and writing a KV cache, as kv_cache.h describes it. */
#ifndef MOEPLAN_KERNELS_CPU_KV_REFERENCE_H
#define MOEPLAN_KERNELS_CPU_KV_REFERENCE_H

#include "reference.h"

/* Where element i of a position starts, in bytes; the scale of an INT8 row is behind it. */
static inline int64_t reference_kv_byte(int is_value, int64_t head, int64_t position, int64_t i,
                                        int64_t head_dim, const moeplan_step *step,
                                        int64_t kv_format) {
  const int64_t capacity = (int64_t)step->kv_capacity;
  if (kv_format == MOEPLAN_KV_F32)
    return ((head * capacity + position) * head_dim + i) * 4;
  if (kv_format == MOEPLAN_KV_INT8)
    return (head * capacity + position) * ((head_dim + 3) / 4 * 4 + 4) + i;
  const int64_t padded = (head_dim + 15) / 16 * 16;
  const int64_t head_begin = head * capacity * padded;
  if (is_value)
    return (head_begin + i / 16 * capacity * 16 + position / 2 * 32 + i % 16 * 2 + position % 2) *
           2;
  return (head_begin + position / 16 * padded * 16 + i / 2 * 32 + position % 16 * 2 + i % 2) * 2;
}

static inline void reference_kv_store(void *cache, int is_value, int64_t head, int64_t position,
                                      const float *x, int64_t head_dim, const moeplan_step *step,
                                      int64_t kv_format) {
  const float maximum = reference_maximum(x, head_dim);
  for (int64_t i = 0; i < head_dim; ++i) {
    char *at =
        (char *)cache + reference_kv_byte(is_value, head, position, i, head_dim, step, kv_format);
    const uint16_t half = reference_to_bf16(x[i]);
    if (kv_format == MOEPLAN_KV_F32)
      memcpy(at, &x[i], 4);
    else if (kv_format == MOEPLAN_KV_BF16)
      memcpy(at, &half, 2);
    else
      *at = (char)(int8_t)reference_code(x[i], maximum);
  }
  if (kv_format == MOEPLAN_KV_INT8) {
    const float scale = maximum / 127;
    memcpy((char *)cache + reference_kv_byte(is_value, head, position, (head_dim + 3) / 4 * 4,
                                             head_dim, step, kv_format),
           &scale, 4);
  }
}

static inline float reference_kv_load(const void *cache, int is_value, int64_t head,
                                      int64_t position, int64_t i, int64_t head_dim,
                                      const moeplan_step *step, int64_t kv_format) {
  const char *at = (const char *)cache +
                   reference_kv_byte(is_value, head, position, i, head_dim, step, kv_format);
  if (kv_format == MOEPLAN_KV_F32)
    return *(const float *)at;
  if (kv_format == MOEPLAN_KV_BF16)
    return reference_from_bf16(*(const uint16_t *)at);
  float scale;
  memcpy(&scale,
         (const char *)cache + reference_kv_byte(is_value, head, position, (head_dim + 3) / 4 * 4,
                                                 head_dim, step, kv_format),
         4);
  return scale * (float)(int8_t)*at;
}

#endif
