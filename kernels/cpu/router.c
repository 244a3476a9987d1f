#include "dot.h"

void moeplan_cpu_router(MOEPLAN_TILE_RANGE, const float *restrict x, const float *restrict gate,
                        float *restrict scores, int32_t *restrict ids, float *restrict weights,
                        int64_t features, int64_t num_experts, int64_t top_k) {
  (void)step;
  for (uint64_t token = tile_begin; token < tile_end; ++token) {
    const float *row = x + token * features;
    float *score = scores + token * num_experts;
    int64_t expert = 0;
    FOR_ROWS(expert, num_experts, ROW_TILE_SINGLE, {
      row_dot_tile(MOEPLAN_FORMAT_F32, &row, gate, expert, features, 1, rows, score + expert);
    });

    int32_t *id = ids + token * top_k;
    float *weight = weights + token * top_k;
    float sum = 0;
    for (int64_t k = 0; k < top_k; ++k) {
      int64_t best = -1;
      for (expert = 0; expert < num_experts; ++expert) {
        int taken = 0;
        for (int64_t earlier = 0; earlier < k; ++earlier)
          taken |= id[earlier] == expert;
        /* An id is always found, even where every score is NaN. */
        if (!taken && (best < 0 || score[expert] > score[best]))
          best = expert;
      }
      id[k] = (int32_t)best;
      weight[k] = exp_f32(score[best] - score[id[0]]);
      sum += weight[k];
    }
    for (int64_t k = 0; k < top_k; ++k)
      weight[k] /= sum;
  }
}

void moeplan_cpu_group_by_expert(MOEPLAN_TILE_RANGE, const int32_t *restrict ids,
                                 const float *restrict weights, uint32_t *restrict expert_begin,
                                 uint32_t *restrict slot_token, float *restrict slot_weight,
                                 int64_t num_experts, int64_t top_k) {
  if (tile_begin == tile_end)
    return;
  const int64_t pairs = step->token_count * top_k;
  /* Counting sort. Between the two passes expert_begin[e + 1] is where expert e's next pair goes.
   */
  for (int64_t e = 0; e <= num_experts; ++e)
    expert_begin[e] = 0;
  for (int64_t i = 0; i < pairs; ++i)
    if (ids[i] + 2 <= num_experts)
      ++expert_begin[ids[i] + 2];
  for (int64_t e = 2; e <= num_experts; ++e)
    expert_begin[e] += expert_begin[e - 1];
  for (int64_t i = 0; i < pairs; ++i) {
    const uint32_t slot = expert_begin[ids[i] + 1]++;
    slot_token[slot] = (uint32_t)(i / top_k);
    slot_weight[slot] = weights[i];
  }
}
