#include "kv_reference.h"

void moeplan_cpu_rope_table_reference(MOEPLAN_TILE_RANGE, float *restrict rope, int64_t head_dim,
                                      double log_theta) {
  for (uint64_t t = tile_begin; t < tile_end; ++t)
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      const float frequency = (float)exp(-log_theta * 2 * i / head_dim);
      const float angle = (float)(step->position + t) * frequency;
      rope[t * head_dim + 2 * i] = (float)cos(angle);
      rope[t * head_dim + 2 * i + 1] = (float)sin(angle);
    }
}

static float rotated(const float *vector, const float *rope, int64_t head_dim, int64_t i) {
  const int64_t half = head_dim / 2, pair = i % half;
  const double cosine = rope[2 * pair], sine = rope[2 * pair + 1];
  return (float)(i < half ? vector[i] * cosine - vector[i + half] * sine
                          : vector[i] * cosine + vector[i - half] * sine);
}

void moeplan_cpu_rope_append_reference(MOEPLAN_TILE_RANGE, float *restrict q,
                                       const float *restrict k, const float *restrict v,
                                       const float *restrict rope, void *restrict keys,
                                       void *restrict values, int64_t num_heads,
                                       int64_t num_kv_heads, int64_t head_dim, int64_t kv_format) {
  for (uint64_t t = tile_begin; t < tile_end; ++t) {
    const float *table = rope + t * head_dim;
    for (int64_t h = 0; h < num_heads; ++h) {
      float *vector = q + (t * num_heads + h) * head_dim;
      for (int64_t i = 0; i < head_dim / 2; ++i) {
        const float low = rotated(vector, table, head_dim, i);
        const float high = rotated(vector, table, head_dim, i + head_dim / 2);
        vector[i] = low;
        vector[i + head_dim / 2] = high;
      }
    }
    for (int64_t h = 0; h < num_kv_heads; ++h) {
      const int64_t source = ((int64_t)t * num_kv_heads + h) * head_dim;
      float key[1024]; /* head_dim of tests is smaller */
      for (int64_t i = 0; i < head_dim; ++i)
        key[i] = rotated(k + source, table, head_dim, i);
      const int64_t position = (int64_t)(step->position + t);
      reference_kv_store(keys, 0, h, position, key, head_dim, step, kv_format);
      reference_kv_store(values, 1, h, position, v + source, head_dim, step, kv_format);
    }
  }
}
