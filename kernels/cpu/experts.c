#include "dot.h"

void moeplan_cpu_experts_gate_up(MOEPLAN_TILE_RANGE, const float *restrict x,
                                 const moeplan_expert *restrict experts,
                                 const uint32_t *restrict expert_begin,
                                 const uint32_t *restrict slot_token, float *restrict h,
                                 int64_t features, int64_t intermediate, int64_t num_experts,
                                 int64_t formats, int64_t rows_per_tile) {
  (void)step;
  const int64_t row_begin = tile_begin * rows_per_tile;
  const int64_t end = tile_end * rows_per_tile;
  const int64_t row_end = end < intermediate ? end : intermediate;
  for (int64_t e = 0; e < num_experts; ++e) {
    const int64_t slot_begin = expert_begin[e], slot_end = expert_begin[e + 1];
    if (slot_begin == slot_end)
      continue;
    /* The gate goes to h, the up projection multiplies into it: two passes over the rows of a
     * block, so that w1 and w3 may differ in format. */
    ROLLED for (int up = 0; up < 2; ++up) {
      const void *w = up ? experts[e].w3 : experts[e].w1;
      const int64_t w_format = up ? experts[e].w3_format : experts[e].w1_format;
      WITH_FORMAT(formats, w_format, {
        FOR_BLOCKS(slot_begin, slot_end, row_begin, row_end, {
          const float *rows_of_x[4];
          float out[tokens * rows];
          UNROLL for (int t = 0; t < tokens; ++t) rows_of_x[t] =
              x + slot_token[token + t] * features;
          DOT_TILE(rows_of_x, w, intermediate, row, features, tokens, rows, out);
          UNROLL for (int t = 0; t < tokens; ++t) for (int r = 0; r < valid; ++r) {
            float *target = h + (token + t) * intermediate + row + r;
            const float value = out[t * rows + r];
            *target = up ? *target * value : silu(value);
          }
        });
      });
    }
  }
}

void moeplan_cpu_experts_down(MOEPLAN_TILE_RANGE, const float *restrict h,
                              const moeplan_expert *restrict experts,
                              const uint32_t *restrict expert_begin,
                              const uint32_t *restrict slot_token,
                              const float *restrict slot_weight, float *restrict y,
                              int64_t features, int64_t intermediate, int64_t num_experts,
                              int64_t formats, int64_t rows_per_tile, int64_t accumulate) {
  const int64_t row_begin = tile_begin * rows_per_tile;
  const int64_t end = tile_end * rows_per_tile;
  const int64_t row_end = end < features ? end : features;
  if (!accumulate)
    for (int64_t token = 0; token < step->token_count; ++token)
      for (int64_t row = row_begin; row < row_end; ++row)
        y[token * features + row] = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    const int64_t slot_begin = expert_begin[e], slot_end = expert_begin[e + 1];
    if (slot_begin == slot_end)
      continue;
    const void *w = experts[e].w2;
    const int64_t w_format = experts[e].w2_format;
    WITH_FORMAT(formats, w_format, {
      FOR_BLOCKS(slot_begin, slot_end, row_begin, row_end, {
        const float *rows_of_h[4];
        float out[tokens * rows];
        UNROLL for (int t = 0; t < tokens; ++t) rows_of_h[t] = h + (token + t) * intermediate;
        DOT_TILE(rows_of_h, w, features, row, intermediate, tokens, rows, out);
        UNROLL for (int t = 0; t < tokens; ++t) for (int r = 0; r < valid; ++r)
            y[slot_token[token + t] * features + row + r] +=
            slot_weight[token + t] * out[t * rows + r];
      });
    });
  }
}
