#include "simd.h"

void moeplan_cpu_rms_norm(MOEPLAN_TILE_RANGE, const float *restrict x, const float *restrict weight,
                          float *restrict out, int64_t features, double epsilon,
                          int64_t logits_rows) {
  for (uint64_t token = tile_begin; token < tile_end; ++token) {
    if (logits_rows && token < step->logits_begin)
      continue;
    const float *row = x + token * features;
    vfloat squares = {0};
    int64_t i = 0;
    for (; i + MOEPLAN_LANES <= features; i += MOEPLAN_LANES) {
      vfloat v = load_f32(row + i);
      squares += v * v;
    }
    float sum = sum_lanes(squares);
    for (; i < features; ++i)
      sum += row[i] * row[i];
    const float scale = 1.0f / __builtin_sqrtf(sum / (float)features + (float)epsilon);
    for (i = 0; i < features; ++i)
      out[token * features + i] = row[i] * scale * weight[i];
  }
}
