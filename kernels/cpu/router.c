#include "dot.h"
#include "quantize.h"

/* Scores of a row against the gate, the top_k best and their weights. */
INLINE void route(const float *row, const float *gate, int32_t *id, float *weight, int64_t features,
                  int64_t num_experts, int64_t top_k) {
  float score[num_experts];
  int64_t expert = 0;
  FOR_ROW_TILES(expert, num_experts, F32_ROW_TILE_SINGLE,
                { f32_dot_tile(&row, gate, expert, features, 1, rows, score + expert); });
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

void moeplan_cpu_router(MOEPLAN_TILE_RANGE, const float *restrict x, const float *restrict scale,
                        const float *restrict gate, int32_t *restrict ids, float *restrict weights,
                        void *restrict operand, int64_t features, int64_t num_experts,
                        int64_t top_k, int64_t normalize, double epsilon, int64_t forms,
                        int64_t logits_rows) {
  float scratch[features];
  for (uint64_t token = tile_begin; token < tile_end; ++token) {
    if (logits_rows && token < step->logits_begin)
      continue;
    const float *row = x + token * features;
    if (normalize)
      normalize_row(row, scale, scratch, features, epsilon);
    row = normalize ? scratch : row;
    route(row, gate, ids + token * top_k, weights + token * top_k, features, num_experts, top_k);
    store_operand((char *)operand + token * moeplan_operand_bytes(forms, features), forms, features,
                  0, features, row);
  }
}

/* Counting sort. Between the two passes expert_begin[e + 1] is where expert e's next pair goes. */
INLINE void group(const int32_t *ids, const float *weights, int64_t first, int64_t pairs,
                  uint32_t *expert_begin, uint32_t *slot_token, float *slot_weight,
                  int64_t num_experts, int64_t top_k) {
  for (int64_t e = 0; e <= num_experts; ++e)
    expert_begin[e] = 0;
  for (int64_t i = first; i < pairs; ++i)
    if (ids[i] + 2 <= num_experts)
      ++expert_begin[ids[i] + 2];
  for (int64_t e = 2; e <= num_experts; ++e)
    expert_begin[e] += expert_begin[e - 1];
  for (int64_t i = first; i < pairs; ++i) {
    const uint32_t slot = expert_begin[ids[i] + 1]++;
    slot_token[slot] = (uint32_t)(i / top_k);
    slot_weight[slot] = weights[i];
  }
}

void moeplan_cpu_group_by_expert(MOEPLAN_TILE_RANGE, const int32_t *restrict ids,
                                 const float *restrict weights, uint32_t *restrict expert_begin,
                                 uint32_t *restrict slot_token, float *restrict slot_weight,
                                 int64_t num_experts, int64_t top_k, int64_t logits_rows) {
  if (tile_begin == tile_end)
    return;
  group(ids, weights, logits_rows ? step->logits_begin * top_k : 0, step->token_count * top_k,
        expert_begin, slot_token, slot_weight, num_experts, top_k);
}

void moeplan_cpu_vector_router(MOEPLAN_TILE_RANGE, const float *restrict x,
                               const float *restrict scale, const float *restrict gate,
                               uint32_t *restrict expert_begin, uint32_t *restrict slot_token,
                               float *restrict slot_weight, void *restrict operand,
                               int64_t features, int64_t num_experts, int64_t top_k,
                               int64_t normalize, double epsilon, int64_t forms,
                               int64_t logits_rows) {
  if (tile_begin == tile_end)
    return;
  const int64_t tokens = logits_rows && step->logits_begin ? 0 : 1;
  int32_t ids[top_k];
  float weights[top_k], scratch[features];
  if (tokens) {
    if (normalize)
      normalize_row(x, scale, scratch, features, epsilon);
    const float *row = normalize ? scratch : x;
    route(row, gate, ids, weights, features, num_experts, top_k);
    store_operand(operand, forms, features, 0, features, row);
  }
  group(ids, weights, 0, tokens * top_k, expert_begin, slot_token, slot_weight, num_experts, top_k);
}
