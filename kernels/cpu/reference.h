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

/* Element (row, column) of a weight [rows, columns], read as the layout in kernel_abi.h is written.
 */
static inline double reference_element(int64_t format, const void *w, int64_t rows, int64_t columns,
                                       int64_t row, int64_t column) {
  if (!moeplan_format_is_packed((unsigned)format))
    return reference_weight(format, w, row * columns + column);
  const int64_t bits = moeplan_format_bits((unsigned)format);
  const int64_t group_size = moeplan_format_group_size((unsigned)format);
  const int64_t tiles = (rows + 15) / 16, blocks = (columns + 31) / 32;
  const int64_t groups = (columns + group_size - 1) / group_size;
  const uint8_t *bytes = (const uint8_t *)w;
  /* Byte of word i of this row and block that belongs to the column. */
  const int64_t first = ((row / 16 * blocks + column / 32) * bits * 16 + row % 16) * 4 + column % 4;
  const int64_t q = column % 32 / 4;
  int code;
  if (bits == 3)
    code = (bytes[first + q / 4 * 64] >> 2 * (q % 4) & 3) + (bytes[first + 2 * 64] >> q & 1) * 4;
  else
    code = bytes[first + q / (8 / bits) * 64] >> bits * (q % (8 / bits)) & ((1 << bits) - 1);
  const uint8_t *group = bytes + tiles * blocks * bits * 64 +
                         (row / 16 * groups + column / group_size) * 32 + row % 16;
  const double scale = ldexp(1 + (group[0] & 7) / 8.0, (group[0] >> 3) - 24);
  return scale * (code - group[16] * ldexp(1, (int)bits - 8));
}

/* Row `row` of w [rows, columns] times x. */
static inline double reference_dot(int64_t format, const void *w, int64_t rows, int64_t row,
                                   const float *x, int64_t columns) {
  double sum = 0;
  for (int64_t k = 0; k < columns; ++k)
    sum += reference_element(format, w, rows, columns, row, k) * x[k];
  return sum;
}

#endif
