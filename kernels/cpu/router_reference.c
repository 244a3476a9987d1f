#include "reference.h"

#include <stdlib.h>

void moeplan_cpu_router_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                  const float *restrict scale, const float *restrict gate,
                                  int32_t *restrict ids, float *restrict weights,
                                  void *restrict operand, int64_t features, int64_t num_experts,
                                  int64_t top_k, int64_t normalize, double epsilon, int64_t forms,
                                  int64_t logits_rows) {
  float *row = malloc((size_t)features * 4), *score = malloc((size_t)num_experts * 4);
  for (uint64_t t = tile_begin; t < tile_end; ++t) {
    if (logits_rows && t < step->logits_begin)
      continue;
    memcpy(row, x + t * features, (size_t)features * 4);
    if (normalize)
      reference_normalize(x + t * features, scale, row, features, epsilon);
    reference_store_operand(reference_operand_row(operand, (int64_t)t, forms, features), forms,
                            features, 0, features, row);
    for (int64_t e = 0; e < num_experts; ++e)
      score[e] = (float)reference_dot(MOEPLAN_FORMAT_F32, gate, num_experts, e, row, features);
    /* An expert's rank is the number of experts before it: higher score, or equal and lower id. */
    double sum = 0, maximum = -INFINITY;
    for (int64_t e = 0; e < num_experts; ++e)
      maximum = fmax(maximum, score[e]);
    for (int64_t e = 0; e < num_experts; ++e) {
      int64_t rank = 0;
      for (int64_t other = 0; other < num_experts; ++other)
        rank += score[other] > score[e] || (score[other] == score[e] && other < e);
      if (rank < top_k) {
        ids[(int64_t)t * top_k + rank] = (int32_t)e;
        weights[(int64_t)t * top_k + rank] = (float)exp(score[e] - maximum);
        sum += exp(score[e] - maximum);
      }
    }
    for (int64_t k = 0; k < top_k; ++k)
      weights[(int64_t)t * top_k + k] = (float)(weights[(int64_t)t * top_k + k] / sum);
  }
  free(row);
  free(score);
}

void moeplan_cpu_group_by_expert_reference(MOEPLAN_TILE_RANGE, const int32_t *restrict ids,
                                           const float *restrict weights,
                                           uint32_t *restrict expert_begin,
                                           uint32_t *restrict slot_token,
                                           float *restrict slot_weight, int64_t num_experts,
                                           int64_t top_k, int64_t logits_rows) {
  (void)tile_begin, (void)tile_end;
  uint32_t slot = 0;
  const int64_t first = logits_rows ? step->logits_begin * top_k : 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    expert_begin[e] = slot;
    for (int64_t i = first; i < step->token_count * top_k; ++i)
      if (ids[i] == e) {
        slot_token[slot] = (uint32_t)(i / top_k);
        slot_weight[slot++] = weights[i];
      }
  }
  expert_begin[num_experts] = slot;
}

void moeplan_cpu_vector_router_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                         const float *restrict scale, const float *restrict gate,
                                         uint32_t *restrict expert_begin,
                                         uint32_t *restrict slot_token, float *restrict slot_weight,
                                         void *restrict operand, int64_t features,
                                         int64_t num_experts, int64_t top_k, int64_t normalize,
                                         double epsilon, int64_t forms, int64_t logits_rows) {
  int32_t *ids = malloc((size_t)top_k * 4);
  float *weights = malloc((size_t)top_k * 4);
  moeplan_cpu_router_reference(step, tile_begin, tile_end, x, scale, gate, ids, weights, operand,
                               features, num_experts, top_k, normalize, epsilon, forms,
                               logits_rows);
  moeplan_cpu_group_by_expert_reference(step, tile_begin, tile_end, ids, weights, expert_begin,
                                        slot_token, slot_weight, num_experts, top_k, logits_rows);
  free(ids);
  free(weights);
}
