#include "simd.h"

void moeplan_cpu_add(MOEPLAN_TILE_RANGE, const float *x, const float *z, float *y,
                     int64_t features) {
  (void)step;
  for (int64_t i = tile_begin * features; i < (int64_t)tile_end * features; ++i)
    y[i] = x[i] + z[i];
}
