#include "dot.h"

void moeplan_cpu_experts_gate_up(MOEPLAN_TILE_RANGE, const float *restrict x,
                                 const moeplan_expert *restrict experts,
                                 const uint32_t *restrict expert_begin,
                                 const uint32_t *restrict slot_token, float *restrict h,
                                 int64_t features, int64_t intermediate, int64_t num_experts,
                                 int64_t formats, int64_t rows_per_tile) {
  (void)step;
  const int64_t end = tile_end * rows_per_tile;
  const int64_t row_end = end < intermediate ? end : intermediate;
  for (int64_t e = 0; e < num_experts; ++e) {
    const int64_t slot_end = expert_begin[e + 1];
    if (expert_begin[e] == slot_end)
      continue;
    /* The gate goes to h, the up projection multiplies into it: two passes over the rows of a
     * block, so that w1 and w3 may differ in format. */
#define BLOCK(FINISH)                                                                              \
  {                                                                                                \
    const float *rows_of_x[4];                                                                     \
    float out[tokens * rows];                                                                      \
    UNROLL for (int t = 0; t < tokens; ++t) rows_of_x[t] = x + slot_token[slot + t] * features;    \
    dot_tile(format, rows_of_x, w, row, features, tokens, rows, out);                              \
    UNROLL for (int t = 0; t < tokens; ++t) UNROLL for (int r = 0; r < rows; ++r) {                \
      float *target = h + (slot + t) * intermediate + row + r;                                     \
      const float value = out[t * rows + r];                                                       \
      FINISH;                                                                                      \
    }                                                                                              \
  }
#define PASS(weights, weights_format, FINISH)                                                      \
  WITH_FORMAT(formats, weights_format, {                                                           \
    const void *w = weights;                                                                       \
    int64_t row = tile_begin * rows_per_tile;                                                      \
    if (slot_end - expert_begin[e] == 1) {                                                         \
      const int64_t slot = expert_begin[e];                                                        \
      enum { tokens = 1 };                                                                         \
      FOR_ROW_BLOCKS(row, row_end, ROW_TILE_SINGLE, BLOCK(FINISH));                                \
    } else {                                                                                       \
      FOR_ROW_BLOCKS(row, row_end, ROW_TILE, {                                                     \
        int64_t slot = expert_begin[e];                                                            \
        FOR_TOKEN_BLOCKS(slot, slot_end, BLOCK(FINISH));                                           \
      });                                                                                          \
    }                                                                                              \
  })
    PASS(experts[e].w1, experts[e].w1_format, *target = silu(value));
    PASS(experts[e].w3, experts[e].w3_format, *target *= value);
#undef PASS
#undef BLOCK
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
    const int64_t slot_end = expert_begin[e + 1];
    if (expert_begin[e] == slot_end)
      continue;
#define BLOCK                                                                                      \
  {                                                                                                \
    const float *rows_of_h[4];                                                                     \
    float out[tokens * rows];                                                                      \
    UNROLL for (int t = 0; t < tokens; ++t) rows_of_h[t] = h + (slot + t) * intermediate;          \
    dot_tile(format, rows_of_h, w, row, intermediate, tokens, rows, out);                          \
    UNROLL for (int t = 0; t < tokens; ++t) UNROLL for (int r = 0; r < rows; ++r)                  \
        y[slot_token[slot + t] * features + row + r] += slot_weight[slot + t] * out[t * rows + r]; \
  }
    WITH_FORMAT(formats, experts[e].w2_format, {
      const void *w = experts[e].w2;
      int64_t row = row_begin;
      if (slot_end - expert_begin[e] == 1) {
        const int64_t slot = expert_begin[e];
        enum { tokens = 1 };
        FOR_ROW_BLOCKS(row, row_end, ROW_TILE_SINGLE, BLOCK);
      } else {
        FOR_ROW_BLOCKS(row, row_end, ROW_TILE, {
          int64_t slot = expert_begin[e];
          FOR_TOKEN_BLOCKS(slot, slot_end, BLOCK);
        });
      }
    });
#undef BLOCK
  }
}
