#include "quantize.h"

void moeplan_cpu_rms_norm(MOEPLAN_TILE_RANGE, const float *restrict x, const float *restrict weight,
                          float *restrict out, int64_t features, double epsilon,
                          int64_t logits_rows) {
  for (uint64_t token = tile_begin; token < tile_end; ++token)
    if (!logits_rows || token >= step->logits_begin)
      normalize_row(x + token * features, weight, out + token * features, features, epsilon);
}
