#include "reference.h"

void moeplan_cpu_router_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                  const float *restrict gate, float *restrict scores,
                                  int32_t *restrict ids, float *restrict weights, int64_t features,
                                  int64_t num_experts, int64_t top_k) {
  (void)step;
  for (uint64_t t = tile_begin; t < tile_end; ++t) {
    float *score = scores + t * num_experts;
    for (int64_t e = 0; e < num_experts; ++e)
      score[e] = (float)reference_dot(MOEPLAN_FORMAT_F32, gate, num_experts, e, x + t * features,
                                      features);
    /* An expert's rank is the number of experts before it: higher score, or equal and lower id. */
    double sum = 0, maximum = -INFINITY;
    for (int64_t e = 0; e < num_experts; ++e)
      maximum = fmax(maximum, score[e]);
    for (int64_t e = 0; e < num_experts; ++e) {
      int64_t rank = 0;
      for (int64_t other = 0; other < num_experts; ++other)
        rank += score[other] > score[e] || (score[other] == score[e] && other < e);
      if (rank < top_k) {
        ids[t * top_k + rank] = (int32_t)e;
        weights[t * top_k + rank] = (float)exp(score[e] - maximum);
        sum += exp(score[e] - maximum);
      }
    }
    for (int64_t k = 0; k < top_k; ++k)
      weights[t * top_k + k] = (float)(weights[t * top_k + k] / sum);
  }
}

void moeplan_cpu_group_by_expert_reference(MOEPLAN_TILE_RANGE, const int32_t *restrict ids,
                                           const float *restrict weights,
                                           uint32_t *restrict expert_begin,
                                           uint32_t *restrict slot_token,
                                           float *restrict slot_weight, int64_t num_experts,
                                           int64_t top_k) {
  (void)tile_begin, (void)tile_end;
  uint32_t slot = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    expert_begin[e] = slot;
    for (int64_t i = 0; i < step->token_count * top_k; ++i)
      if (ids[i] == e) {
        slot_token[slot] = (uint32_t)(i / top_k);
        slot_weight[slot++] = weights[i];
      }
  }
  expert_begin[num_experts] = slot;
}
