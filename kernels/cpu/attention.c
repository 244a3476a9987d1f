/* For each block of KEY_BLOCK cache positions: scores s_j = q . k_j / sqrt(head_dim), the running
 * maximum m and its correction c = e^(m_old - m), p_j = e^(s_j - m), then
 *   sum = c sum + sum_j p_j,   out = c out + sum_j p_j v_j
 * and out / sum at the end. */
#include "dot.h"

enum { KEY_BLOCK = 64 };

INLINE void attend(const float *q, const void *restrict keys, const void *restrict values,
                   float *restrict out, int64_t begin, int64_t end, int64_t head_dim,
                   int64_t kv_format) {
  const float scale = 1.0f / __builtin_sqrtf((float)head_dim);
  float maximum = -__builtin_inff(), sum = 0;
  for (int64_t i = 0; i < head_dim; ++i)
    out[i] = 0;
  for (int64_t block = begin; block < end; block += KEY_BLOCK) {
    const int64_t count = end - block < KEY_BLOCK ? end - block : KEY_BLOCK;
    float p[KEY_BLOCK];
    int64_t j = 0;
    FOR_ROWS(j, count, ROW_TILE_SINGLE,
             { row_dot_tile(kv_format, &q, keys, block + j, head_dim, 1, rows, p + j); });
    float block_maximum = maximum;
    for (j = 0; j < count; ++j) {
      p[j] *= scale;
      block_maximum = p[j] > block_maximum ? p[j] : block_maximum;
    }
    const float correction = exp_f32(maximum - block_maximum);
    maximum = block_maximum;
    float block_sum = 0;
    for (j = 0; j < count; ++j) {
      p[j] = exp_f32(p[j] - maximum);
      block_sum += p[j];
    }
    sum = sum * correction + block_sum;
    int64_t i = 0;
    for (; i + MOEPLAN_LANES <= head_dim; i += MOEPLAN_LANES) {
      vfloat accumulator = load_f32(out + i) * correction;
      for (j = 0; j < count; ++j)
        accumulator +=
            load_weights(kv_format, weight_row(kv_format, values, block + j, head_dim), i) * p[j];
      store_f32(out + i, accumulator);
    }
    for (; i < head_dim; ++i) {
      out[i] *= correction;
      for (j = 0; j < count; ++j)
        out[i] +=
            load_weight(kv_format, weight_row(kv_format, values, block + j, head_dim), i) * p[j];
    }
  }
  for (int64_t i = 0; i < head_dim; ++i)
    out[i] /= sum;
}

void moeplan_cpu_attention(MOEPLAN_TILE_RANGE, const float *restrict q, const void *restrict keys,
                           const void *restrict values, float *restrict out, int64_t num_heads,
                           int64_t num_kv_heads, int64_t head_dim, int64_t kv_format,
                           int64_t sliding_window) {
  const int64_t group = num_heads / num_kv_heads;
  for (uint64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t token = tile / num_heads, head = tile % num_heads;
    const int64_t end = step->position + token + 1;
    const int64_t begin = sliding_window && end > sliding_window ? end - sliding_window : 0;
    const int64_t cache = (head / group) * step->kv_capacity;
    attend(q + tile * head_dim, weight_row(kv_format, keys, cache, head_dim),
           weight_row(kv_format, values, cache, head_dim), out + tile * head_dim, begin, end,
           head_dim, kv_format);
  }
}
