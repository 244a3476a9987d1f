/* What the scalar references share. They use the C library and double accumulators, no vectors. */
#ifndef MOEPLAN_KERNELS_CPU_REFERENCE_H
#define MOEPLAN_KERNELS_CPU_REFERENCE_H

#include "kernels.h"

#include <math.h>
#include <string.h>

static inline float reference_from_bf16(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline uint16_t reference_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  /* Nearest bf16, ties to even, by comparing the two neighbours' distances. */
  const uint32_t low = bits & 0xffff, truncated = bits >> 16;
  const int up = low > 0x8000 || (low == 0x8000 && (truncated & 1));
  return (uint16_t)(isnan(value) ? truncated | 0x40 : truncated + up);
}

/* Element (row, column) of a weight [rows, columns], read as the layout in kernel_abi.h is written.
 */
static inline double reference_element(int64_t format, const void *w, int64_t rows, int64_t columns,
                                       int64_t row, int64_t column) {
  (void)rows;
  if (format == MOEPLAN_FORMAT_F32)
    return ((const float *)w)[row * columns + column];
  if (format == MOEPLAN_FORMAT_BF16) {
    const int64_t padded_pairs = (columns + 3) / 4 * 2;
    const int64_t pair = (row / 16 * padded_pairs + column / 2) * 16 + row % 16;
    return reference_from_bf16(((const uint16_t *)w)[pair * 2 + column % 2]);
  }
  const int64_t bits = moeplan_format_bits((unsigned)format);
  const int64_t group_size = moeplan_format_group_size((unsigned)format);
  const int64_t blocks = (columns + 31) / 32, groups = (columns + group_size - 1) / group_size;
  const uint8_t *tile = (const uint8_t *)w + row / 16 * (blocks * bits * 64 + groups * 32);
  /* Group by group: its codes, its scales and zeros. */
  const int64_t group_index = column / group_size, group_blocks = group_size / 32;
  const int64_t blocks_left = blocks - group_index * group_blocks;
  const int64_t blocks_here = blocks_left < group_blocks ? blocks_left : group_blocks;
  const uint8_t *bytes = tile + group_index * (group_blocks * bits * 64 + 32);
  /* Byte of word i of this row and block that belongs to the column. */
  const int64_t first =
      (column / 32 - group_index * group_blocks) * bits * 64 + row % 16 * 4 + column % 4;
  const int64_t q = column % 32 / 4;
  int code;
  if (bits == 3)
    code = (bytes[first + q / 4 * 64] >> 2 * (q % 4) & 3) + (bytes[first + 2 * 64] >> q & 1) * 4;
  else
    code = bytes[first + q / (8 / bits) * 64] >> bits * (q % (8 / bits)) & ((1 << bits) - 1);
  const uint8_t *group = bytes + blocks_here * bits * 64 + row % 16;
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

/* Operands, read and written as operand.h describes them. */

static inline int64_t reference_form_begin(int64_t forms, int64_t form, int64_t columns) {
  const int64_t f32 = (columns * 4 + 63) / 64 * 64,
                bf16 = ((columns + 31) / 32 * 64 + 63) / 64 * 64;
  return form == MOEPLAN_FORM_F32    ? 0
         : form == MOEPLAN_FORM_BF16 ? (forms & 1 ? f32 : 0)
                                     : (forms & 1 ? f32 : 0) + (forms & 2 ? bf16 : 0);
}

static inline char *reference_operand_row(const void *operand, int64_t row, int64_t forms,
                                          int64_t columns) {
  const int64_t q8 = ((columns + 31) / 32 * 40 + 63) / 64 * 64;
  const int64_t bytes =
      reference_form_begin(forms, MOEPLAN_FORM_Q8, columns) + (forms & 4 ? q8 : 0);
  return (char *)operand + row * bytes;
}

/* What weights of `format` are multiplied with, at `column` of a row. */
static inline float reference_operand_element(const char *row, int64_t forms, int64_t format,
                                              int64_t columns, int64_t column) {
  const int64_t form = format == MOEPLAN_FORMAT_F32 ? 1 : format == MOEPLAN_FORMAT_BF16 ? 2 : 4;
  const char *begin = row + reference_form_begin(forms, form, columns);
  if (form == MOEPLAN_FORM_F32)
    return ((const float *)begin)[column];
  if (form == MOEPLAN_FORM_BF16)
    return reference_from_bf16(((const uint16_t *)begin)[column]);
  float scale;
  memcpy(&scale, begin + column / 32 * 40 + 32, 4);
  return scale * (float)(int8_t)begin[column / 32 * 40 + column % 32];
}

static inline double reference_operand_dot(int64_t format, const void *w, int64_t rows, int64_t row,
                                           const char *x, int64_t forms, int64_t columns) {
  double sum = 0;
  for (int64_t k = 0; k < columns; ++k)
    sum += reference_element(format, w, rows, columns, row, k) *
           reference_operand_element(x, forms, format, columns, k);
  return sum;
}

/* The largest |x|; NaN where one of them is. */
static inline float reference_maximum(const float *x, int64_t count) {
  float maximum = 0;
  for (int64_t i = 0; i < count; ++i)
    if (!isnan(maximum) && !(fabsf(x[i]) <= maximum))
      maximum = fabsf(x[i]);
  return maximum;
}

/* The 8-bit code of x beside that maximum: 0 where it has no inverse in float32. */
static inline int reference_code(float x, float maximum) {
  return maximum > 1e-35f && !isinf(maximum) ? (int)rint(x * 127.0 / maximum) : 0;
}

/* Columns begin .. end - 1; begin is a multiple of MOEPLAN_ACTIVATION_BLOCK. */
static inline void reference_store_operand(char *row, int64_t forms, int64_t columns, int64_t begin,
                                           int64_t end, const float *values) {
  if (forms & MOEPLAN_FORM_F32)
    memcpy((float *)row + begin, values, (size_t)(end - begin) * 4);
  if (forms & MOEPLAN_FORM_BF16) {
    uint16_t *target = (uint16_t *)(row + reference_form_begin(forms, MOEPLAN_FORM_BF16, columns));
    for (int64_t k = begin; k < end || (end == columns && k % 32); ++k)
      target[k] = k < end ? reference_to_bf16(values[k - begin]) : 0;
  }
  if (!(forms & MOEPLAN_FORM_Q8))
    return;
  char *blocks = row + reference_form_begin(forms, MOEPLAN_FORM_Q8, columns);
  for (int64_t first = begin; first < end; first += MOEPLAN_ACTIVATION_BLOCK) {
    const int64_t last =
        first + MOEPLAN_ACTIVATION_BLOCK < end ? first + MOEPLAN_ACTIVATION_BLOCK : end;
    const float maximum = reference_maximum(values + (first - begin), last - first);
    const float scale = maximum / 127;
    for (int64_t k = first; k < last; k += 32) {
      char *block = blocks + k / 32 * 40;
      int sum = 0;
      for (int64_t i = 0; i < 32; ++i) {
        const int code = k + i < last ? reference_code(values[k + i - begin], maximum) : 0;
        block[i] = (char)(int8_t)code;
        sum += code;
      }
      const float scaled = scale * (float)sum;
      memcpy(block + 32, &scale, 4);
      memcpy(block + 36, &scaled, 4);
    }
  }
}

static inline void reference_normalize(const float *x, const float *weight, float *out,
                                       int64_t features, double epsilon) {
  double squares = 0;
  for (int64_t i = 0; i < features; ++i)
    squares += (double)x[i] * x[i];
  for (int64_t i = 0; i < features; ++i)
    out[i] = (float)(x[i] / sqrt((double)squares / (double)features + epsilon) * weight[i]);
}

#endif
