#include "reference.h"

#include <stdlib.h>

void moeplan_cpu_experts_gate_up_reference(
    MOEPLAN_TILE_RANGE, const void *restrict x, const moeplan_expert *restrict experts,
    const uint32_t *restrict expert_begin, const uint32_t *restrict slot_token, void *restrict h,
    int64_t features, int64_t intermediate, int64_t num_experts, int64_t formats, int64_t x_forms,
    int64_t h_forms, int64_t rows_per_tile, int64_t max_tokens, int64_t prefetch, int64_t unroll) {
  (void)step, (void)formats, (void)max_tokens, (void)prefetch, (void)unroll;
  const int64_t begin = (int64_t)tile_begin * rows_per_tile;
  const int64_t limit = (int64_t)tile_end * rows_per_tile;
  const int64_t end = limit < intermediate ? limit : intermediate;
  float *products = malloc((size_t)(end > begin ? end - begin : 1) * 4);
  for (int64_t e = 0; e < num_experts; ++e)
    for (uint32_t slot = expert_begin[e]; slot < expert_begin[e + 1]; ++slot) {
      const char *row = reference_operand_row(x, slot_token[slot], x_forms, features);
      for (int64_t n = begin; n < end; ++n) {
        const double gate = reference_operand_dot(experts[e].w1_format, experts[e].w1, intermediate,
                                                  n, row, x_forms, features);
        const double up = reference_operand_dot(experts[e].w3_format, experts[e].w3, intermediate,
                                                n, row, x_forms, features);
        products[n - begin] = (float)(gate / (1 + exp(-gate)) * up);
      }
      reference_store_operand(reference_operand_row(h, slot, h_forms, intermediate), h_forms,
                              intermediate, begin, end, products);
    }
  free(products);
}

void moeplan_cpu_experts_down_reference(
    MOEPLAN_TILE_RANGE, const void *restrict h, const moeplan_expert *restrict experts,
    const uint32_t *restrict expert_begin, const uint32_t *restrict slot_token,
    const float *restrict slot_weight, float *restrict y, int64_t features, int64_t intermediate,
    int64_t num_experts, int64_t formats, int64_t h_forms, int64_t rows_per_tile,
    int64_t accumulate, int64_t max_tokens, int64_t prefetch, int64_t unroll) {
  (void)formats, (void)max_tokens, (void)prefetch, (void)unroll;
  for (int64_t t = 0; t < step->token_count; ++t)
    for (int64_t n = (int64_t)tile_begin * rows_per_tile;
         n < (int64_t)tile_end * rows_per_tile && n < features; ++n) {
      double sum = accumulate ? y[t * features + n] : 0;
      for (int64_t e = 0; e < num_experts; ++e)
        for (uint32_t slot = expert_begin[e]; slot < expert_begin[e + 1]; ++slot)
          if (slot_token[slot] == t)
            sum += slot_weight[slot] *
                   reference_operand_dot(experts[e].w2_format, experts[e].w2, features, n,
                                         reference_operand_row(h, slot, h_forms, intermediate),
                                         h_forms, intermediate);
      y[t * features + n] = (float)sum;
    }
}
