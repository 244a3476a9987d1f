#include "dot.h"
#include "quantize.h"

/* What gate and up work on at a time, for some slots: a block of rows, whose products wait in the
 * first caches to be made an operand. */
enum { UNIT_ROWS = 128, UNIT_SLOTS = 64 };

/* target = silu(value), or target * value where `up`. */
INLINE void gate_or_multiply(float *target, const float *value, const int rows, int up) {
  if (rows < MOEPLAN_LANES) {
    for (int r = 0; r < rows; ++r)
      target[r] = up ? target[r] * value[r] : silu(value[r]);
    return;
  }
  const vfloat v = load_f32(value);
  store_f32(target, up ? load_f32(target) * v : v / (1.0f + exp_vector(-v)));
}

void moeplan_cpu_experts_gate_up(
    MOEPLAN_TILE_RANGE, const void *restrict x, const moeplan_expert *restrict experts,
    const uint32_t *restrict expert_begin, const uint32_t *restrict slot_token, void *restrict h,
    int64_t features, int64_t intermediate, int64_t num_experts, int64_t formats, int64_t x_forms,
    int64_t h_forms, int64_t rows_per_tile, int64_t max_tokens, int64_t prefetch, int64_t unroll) {
  (void)step;
  const int64_t row_begin = tile_begin * rows_per_tile;
  const int64_t end = tile_end * rows_per_tile;
  const int64_t row_end = end < intermediate ? end : intermediate;
  const int64_t h_bytes = moeplan_operand_bytes(h_forms, intermediate);
  float unit[UNIT_SLOTS * UNIT_ROWS];
  for (int64_t e = 0; e < num_experts; ++e) {
    const int64_t slot_begin = expert_begin[e], slot_end = expert_begin[e + 1];
    if (slot_begin == slot_end)
      continue;
    ROLLED for (int64_t unit_row = row_begin; unit_row < row_end; unit_row += UNIT_ROWS) {
      const int64_t unit_row_end = unit_row + UNIT_ROWS < row_end ? unit_row + UNIT_ROWS : row_end;
      ROLLED for (int64_t unit_slot = slot_begin; unit_slot < slot_end; unit_slot += UNIT_SLOTS) {
        const int64_t unit_slot_end =
            unit_slot + UNIT_SLOTS < slot_end ? unit_slot + UNIT_SLOTS : slot_end;
        /* The gate first, the up projection multiplies into it: two passes over the rows, so that
         * w1 and w3 may differ in format. */
        ROLLED for (int up = 0; up < 2; ++up) {
          const void *data = up ? experts[e].w3 : experts[e].w1;
          const int64_t w_format = up ? experts[e].w3_format : experts[e].w1_format;
          WITH_FORMAT(formats, w_format, {
            const weight w = {data, intermediate, features, format, group_shift, prefetch, unroll};
            const operand_rows rows_of_x = operand_form(x, x_forms, format, features, slot_token);
            FOR_TILES(
                w, max_tokens == 1, unit_slot, unit_slot_end, unit_row, unit_row_end, rows_of_x, {
                  /* Rows that are not wanted still are within the unit. */
                  for (int t = 0; t < live; ++t)
                    gate_or_multiply(unit + (token + t - unit_slot) * UNIT_ROWS + row - unit_row,
                                     out + t * rows, rows, up);
                });
          });
        }
        for (int64_t slot = unit_slot; slot < unit_slot_end; ++slot)
          store_operand((char *)h + slot * h_bytes, h_forms, intermediate, unit_row, unit_row_end,
                        unit + (slot - unit_slot) * UNIT_ROWS);
      }
    }
  }
}

void moeplan_cpu_experts_down(
    MOEPLAN_TILE_RANGE, const void *restrict h, const moeplan_expert *restrict experts,
    const uint32_t *restrict expert_begin, const uint32_t *restrict slot_token,
    const float *restrict slot_weight, float *restrict y, int64_t features, int64_t intermediate,
    int64_t num_experts, int64_t formats, int64_t h_forms, int64_t rows_per_tile,
    int64_t accumulate, int64_t max_tokens, int64_t prefetch, int64_t unroll) {
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
    const int64_t w_format = experts[e].w2_format;
    WITH_FORMAT(formats, w_format, {
      const weight w = {experts[e].w2, features, intermediate, format,
                        group_shift,   prefetch, unroll};
      const operand_rows rows_of_h = operand_form(h, h_forms, format, intermediate, 0);
      FOR_TILES(w, max_tokens == 1, slot_begin, slot_end, row_begin, row_end, rows_of_h, {
        for (int t = 0; t < live; ++t)
          for (int r = 0; r < valid; ++r)
            y[slot_token[token + t] * features + row + r] +=
                slot_weight[token + t] * out[t * rows + r];
      });
    });
  }
}
