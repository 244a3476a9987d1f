#include "reference.h"

void moeplan_cpu_experts_gate_up_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                           const moeplan_expert *restrict experts,
                                           const uint32_t *restrict expert_begin,
                                           const uint32_t *restrict slot_token, float *restrict h,
                                           int64_t features, int64_t intermediate,
                                           int64_t num_experts, int64_t formats,
                                           int64_t rows_per_tile) {
  (void)step, (void)formats;
  for (int64_t e = 0; e < num_experts; ++e)
    for (uint32_t slot = expert_begin[e]; slot < expert_begin[e + 1]; ++slot)
      for (int64_t n = tile_begin * rows_per_tile;
           n < (int64_t)tile_end * rows_per_tile && n < intermediate; ++n) {
        const float *row = x + (int64_t)slot_token[slot] * features;
        const double gate =
            reference_dot(experts[e].w1_format, experts[e].w1, intermediate, n, row, features);
        const double up =
            reference_dot(experts[e].w3_format, experts[e].w3, intermediate, n, row, features);
        h[slot * intermediate + n] = (float)(gate / (1 + exp(-gate)) * up);
      }
}

void moeplan_cpu_experts_down_reference(
    MOEPLAN_TILE_RANGE, const float *restrict h, const moeplan_expert *restrict experts,
    const uint32_t *restrict expert_begin, const uint32_t *restrict slot_token,
    const float *restrict slot_weight, float *restrict y, int64_t features, int64_t intermediate,
    int64_t num_experts, int64_t formats, int64_t rows_per_tile, int64_t accumulate) {
  (void)formats;
  for (int64_t t = 0; t < step->token_count; ++t)
    for (int64_t n = tile_begin * rows_per_tile;
         n < (int64_t)tile_end * rows_per_tile && n < features; ++n) {
      double sum = accumulate ? y[t * features + n] : 0;
      for (int64_t e = 0; e < num_experts; ++e)
        for (uint32_t slot = expert_begin[e]; slot < expert_begin[e + 1]; ++slot)
          if (slot_token[slot] == t)
            sum +=
                slot_weight[slot] * reference_dot(experts[e].w2_format, experts[e].w2, features, n,
                                                  h + (int64_t)slot * intermediate, intermediate);
      y[t * features + n] = (float)sum;
    }
}
