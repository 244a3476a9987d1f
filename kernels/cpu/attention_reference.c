#include "reference.h"

void moeplan_cpu_attention_reference(MOEPLAN_TILE_RANGE, const float *restrict q,
                                     const void *restrict keys, const void *restrict values,
                                     float *restrict out, int64_t num_heads, int64_t num_kv_heads,
                                     int64_t head_dim, int64_t kv_format, int64_t sliding_window) {
  for (uint64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t last = (int64_t)(step->position + tile / num_heads);
    const int64_t first = sliding_window && last >= sliding_window ? last - sliding_window + 1 : 0;
    const int64_t head = (int64_t)(tile % num_heads) / (num_heads / num_kv_heads);
    const int64_t cache = head * (int64_t)step->kv_capacity;
    const float *query = q + tile * head_dim;
    float *result = out + tile * head_dim;
    /* Two passes over the scores: the maximum, then the weighted sum. */
    double maximum = -INFINITY, sum = 0;
    for (int64_t j = first; j <= last; ++j) {
      const double score =
          reference_dot(kv_format, keys, cache + j + 1, cache + j, query, head_dim) /
          sqrt((double)head_dim);
      maximum = fmax(maximum, score);
    }
    for (int64_t i = 0; i < head_dim; ++i)
      result[i] = 0;
    for (int64_t j = first; j <= last; ++j) {
      const double p =
          exp(reference_dot(kv_format, keys, cache + j + 1, cache + j, query, head_dim) /
                  sqrt((double)head_dim) -
              maximum);
      sum += p;
      for (int64_t i = 0; i < head_dim; ++i)
        result[i] += (float)(p * reference_weight(kv_format, values, (cache + j) * head_dim + i));
    }
    for (int64_t i = 0; i < head_dim; ++i)
      result[i] = (float)(result[i] / sum);
  }
}
