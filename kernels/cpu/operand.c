#include "quantize.h"

void moeplan_cpu_operand(MOEPLAN_TILE_RANGE, const float *restrict x, const float *restrict scale,
                         void *restrict operand, int64_t features, int64_t normalize,
                         double epsilon, int64_t forms, int64_t logits_rows) {
  float scratch[features];
  for (uint64_t token = tile_begin; token < tile_end; ++token)
    if (!logits_rows || token >= step->logits_begin)
      make_operand((char *)operand + token * moeplan_operand_bytes(forms, features), forms,
                   x + token * features, scale, features, normalize, epsilon, scratch);
}
