#include "reference.h"

void moeplan_cpu_add_reference(MOEPLAN_TILE_RANGE, const float *x, const float *z, float *y,
                               int64_t features) {
  (void)step;
  for (uint64_t t = tile_begin; t < tile_end; ++t)
    for (int64_t i = 0; i < features; ++i)
      y[t * features + i] = x[t * features + i] + z[t * features + i];
}
