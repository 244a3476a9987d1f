/* What the scalar references share. They use the C library and double accumulators, no vectors. */
#ifndef MOEPLAN_KERNELS_CPU_REFERENCE_H
#define MOEPLAN_KERNELS_CPU_REFERENCE_H

#include "kernels.h"

#include <math.h>
#include <string.h>

static inline float reference_weight(int64_t format, const void *w, int64_t index) {
  if (format == MOEPLAN_FORMAT_F32)
    return ((const float *)w)[index];
  uint32_t bits = (uint32_t)((const uint16_t *)w)[index] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline void reference_store(int64_t format, void *w, int64_t index, float value) {
  if (format == MOEPLAN_FORMAT_F32) {
    ((float *)w)[index] = value;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &value, 4);
  /* Nearest bf16, ties to even, by comparing the two neighbours' distances. */
  const uint32_t low = bits & 0xffff, truncated = bits >> 16;
  const int up = low > 0x8000 || (low == 0x8000 && (truncated & 1));
  ((uint16_t *)w)[index] = (uint16_t)(isnan(value) ? truncated | 0x40 : truncated + up);
}

/* Row `row` of w [.., columns] times x. */
static inline double reference_dot(int64_t format, const void *w, int64_t row, const float *x,
                                   int64_t columns) {
  double sum = 0;
  for (int64_t k = 0; k < columns; ++k)
    sum += (double)reference_weight(format, w, row * columns + k) * x[k];
  return sum;
}

#endif
