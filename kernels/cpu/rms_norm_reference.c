#include "reference.h"

void moeplan_cpu_rms_norm_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                    const float *restrict weight, float *restrict out,
                                    int64_t features, double epsilon, int64_t logits_rows) {
  for (uint64_t t = tile_begin; t < tile_end; ++t)
    if (!logits_rows || t >= step->logits_begin)
      reference_normalize(x + t * features, weight, out + t * features, features, epsilon);
}
