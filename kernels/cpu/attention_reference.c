#include "kv_reference.h"

#include <stdlib.h>

/* One query head of one token. */
static void attend_reference(const moeplan_step *step, const float *query, const void *keys,
                             const void *values, float *out, int64_t kv_head, int64_t last,
                             int64_t head_dim, int64_t kv_format, int64_t sliding_window) {
  const int64_t first = sliding_window && last >= sliding_window ? last - sliding_window + 1 : 0;
  double *score = malloc((size_t)(last + 1) * sizeof(double));
  /* Two passes over the scores: the maximum, then the weighted sum. */
  double maximum = -INFINITY, sum = 0;
  for (int64_t j = first; j <= last; ++j) {
    double dot = 0;
    for (int64_t i = 0; i < head_dim; ++i)
      dot +=
          (double)query[i] * reference_kv_load(keys, 0, kv_head, j, i, head_dim, step, kv_format);
    score[j] = dot / sqrt((double)head_dim);
    maximum = fmax(maximum, score[j]);
  }
  for (int64_t j = first; j <= last; ++j)
    sum += exp(score[j] - maximum);
  for (int64_t i = 0; i < head_dim; ++i) {
    double weighted = 0;
    for (int64_t j = first; j <= last; ++j)
      weighted += exp(score[j] - maximum) *
                  reference_kv_load(values, 1, kv_head, j, i, head_dim, step, kv_format);
    out[i] = (float)(weighted / sum);
  }
  free(score);
}

void moeplan_cpu_attention_reference(MOEPLAN_TILE_RANGE, const float *restrict q,
                                     const void *restrict keys, const void *restrict values,
                                     float *restrict out, int64_t num_heads, int64_t num_kv_heads,
                                     int64_t head_dim, int64_t kv_format, int64_t sliding_window,
                                     int64_t tokens_per_tile, int64_t logits_rows) {
  const int64_t group = num_heads / num_kv_heads;
  for (uint64_t tile = tile_begin; tile < tile_end; ++tile)
    for (int64_t i = 0; i < tokens_per_tile * group; ++i) {
      const int64_t kv_head = (int64_t)tile % num_kv_heads;
      const int64_t t = (int64_t)tile / num_kv_heads * tokens_per_tile + i / group;
      if (t >= step->token_count || (logits_rows && t < step->logits_begin))
        continue;
      const int64_t at = (t * num_heads + kv_head * group + i % group) * head_dim;
      attend_reference(step, q + at, keys, values, out + at, kv_head, (int64_t)step->position + t,
                       head_dim, kv_format, sliding_window);
    }
}

void moeplan_cpu_vector_attention_reference(MOEPLAN_TILE_RANGE, const float *restrict q,
                                            const float *restrict k, const float *restrict v,
                                            const float *restrict rope, void *restrict keys,
                                            void *restrict values, float *restrict out,
                                            int64_t num_heads, int64_t num_kv_heads,
                                            int64_t head_dim, int64_t kv_format,
                                            int64_t sliding_window, int64_t logits_rows) {
  (void)tile_begin, (void)tile_end; /* all of them */
  const size_t bytes = (size_t)(num_heads * head_dim) * 4;
  float *rotated = malloc(bytes);
  memcpy(rotated, q, bytes);
  moeplan_cpu_rope_append_reference(step, 0, 1, rotated, k, v, rope, keys, values, num_heads,
                                    num_kv_heads, head_dim, kv_format);
  moeplan_cpu_attention_reference(step, 0, (uint64_t)num_kv_heads, rotated, keys, values, out,
                                  num_heads, num_kv_heads, head_dim, kv_format, sliding_window, 1,
                                  logits_rows);
  free(rotated);
}
