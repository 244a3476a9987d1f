#include "reference.h"

void moeplan_cpu_rms_norm_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                    const float *restrict weight, float *restrict out,
                                    int64_t features, double epsilon, int64_t logits_rows) {
  for (uint64_t t = tile_begin; t < tile_end; ++t) {
    if (logits_rows && t < step->logits_begin)
      continue;
    double squares = 0;
    for (int64_t i = 0; i < features; ++i)
      squares += (double)x[t * features + i] * x[t * features + i];
    for (int64_t i = 0; i < features; ++i)
      out[t * features + i] =
          (float)(x[t * features + i] / sqrt(squares / features + epsilon) * weight[i]);
  }
}
