/* Making operands: rows of float32 into the forms of operand.h. */
#ifndef MOEPLAN_KERNELS_CPU_QUANTIZE_H
#define MOEPLAN_KERNELS_CPU_QUANTIZE_H

#include "operand.h"
#include "simd.h"

/* 1.5 * 2^23: adding it to a float32 of at most 2^22 rounds that to an integer, ties to even, which
 * then is in the low bits. */
#define ROUNDING_OFFSET 12582912.0f

/* Columns `begin` .. `end` - 1 of a row, from `values`; begin is a multiple of
 * MOEPLAN_ACTIVATION_BLOCK. */
INLINE void quantize_columns(moeplan_q8_block *blocks, int64_t begin, int64_t end,
                             const float *values) {
  ROLLED for (int64_t first = begin; first < end; first += MOEPLAN_ACTIVATION_BLOCK) {
    const int64_t count =
        end - first < MOEPLAN_ACTIVATION_BLOCK ? end - first : MOEPLAN_ACTIVATION_BLOCK;
    const int64_t count32 = (count + MOEPLAN_BLOCK_COLUMNS - 1) / MOEPLAN_BLOCK_COLUMNS;
    float padded[MOEPLAN_ACTIVATION_BLOCK];
    const float *x = values + (first - begin);
    if (count < count32 * MOEPLAN_BLOCK_COLUMNS) {
      for (int64_t i = 0; i < count32 * MOEPLAN_BLOCK_COLUMNS; ++i)
        padded[i] = i < count ? x[i] : 0;
      x = padded;
    }
    /* The largest magnitude, compared as integers: their order is that of the floats, with
     * infinity and NaN on top, which so reach the scale and are not lost. */
    vuint largest = {0};
    for (int64_t i = 0; i < count32 * MOEPLAN_BLOCK_COLUMNS; i += MOEPLAN_LANES) {
      const vuint magnitude = (vuint)load_f32(x + i) & 0x7fffffffu;
      const vuint larger = (vuint)(magnitude > largest);
      largest = (magnitude & larger) | (largest & ~larger);
    }
    uint32_t bits = 0;
    UNROLL for (int lane = 0; lane < MOEPLAN_LANES; ++lane) bits =
        largest[lane] > bits ? largest[lane] : bits;
    float maximum;
    __builtin_memcpy(&maximum, &bits, 4);
    const float scale = maximum * (1.0f / 127);
    /* A subnormal maximum has no inverse in float32; such numbers count as zero. */
    const float inverse = maximum > 1e-35f ? 127 / maximum : 0;
    for (int64_t b = 0; b < count32; ++b) {
      moeplan_q8_block *block = blocks + first / MOEPLAN_BLOCK_COLUMNS + b;
      vint sum = {0};
      UNROLL for (int i = 0; i < MOEPLAN_BLOCK_COLUMNS; i += MOEPLAN_LANES) {
        const vfloat rounded =
            load_f32(x + b * MOEPLAN_BLOCK_COLUMNS + i) * inverse + ROUNDING_OFFSET;
        const vuint code = (vuint)rounded; /* the code in its low byte */
        *(vbyte_mem *)(block->codes + i) = __builtin_convertvector(code, vbyte);
        sum += (vint)(code << 24) >> 24;
      }
      int32_t total = 0;
      UNROLL for (int lane = 0; lane < MOEPLAN_LANES; ++lane) total += sum[lane];
      block->scale = scale;
      block->sum = scale * (float)total;
    }
  }
}

INLINE void round_columns(uint16_t *row, int64_t begin, int64_t end, int64_t columns,
                          const float *values) {
  int64_t i = begin;
  ROLLED for (; i + MOEPLAN_LANES <= end; i += MOEPLAN_LANES) {
    const vuint bits = (vuint)load_f32(values + (i - begin));
    const vuint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const vuint quiet = (bits >> 16) | 0x40;
    const vuint is_nan = (vuint)((bits & 0x7fffffffu) > 0x7f800000u);
    *(vhalf_mem *)(row + i) =
        __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), vhalf);
  }
  ROLLED for (; i < end; ++i) row[i] = f32_to_bf16(values[i - begin]);
  if (end == columns)
    for (; i % MOEPLAN_BLOCK_COLUMNS; ++i)
      row[i] = 0;
}

/* Columns `begin` .. `end` - 1 of the operand `row` in all its forms, from `values`; begin is a
 * multiple of MOEPLAN_ACTIVATION_BLOCK. */
INLINE void store_operand(char *row, int64_t forms, int64_t columns, int64_t begin, int64_t end,
                          const float *values) {
  if (forms & MOEPLAN_FORM_F32) {
    float *target = (float *)row;
    for (int64_t i = begin; i < end; ++i)
      target[i] = values[i - begin];
  }
  if (forms & MOEPLAN_FORM_BF16)
    round_columns((uint16_t *)(row + moeplan_form_offset(forms, MOEPLAN_FORM_BF16, columns)), begin,
                  end, columns, values);
  if (forms & MOEPLAN_FORM_Q8)
    quantize_columns(
        (moeplan_q8_block *)(row + moeplan_form_offset(forms, MOEPLAN_FORM_Q8, columns)), begin,
        end, values);
}

/* out = x / sqrt(mean(x^2) + epsilon) * weight. */
INLINE void normalize_row(const float *x, const float *weight, float *out, int64_t features,
                          double epsilon) {
  vfloat squares[4] = {{0}, {0}, {0}, {0}};
  int64_t i = 0;
  ROLLED for (; i + 4 * MOEPLAN_LANES <= features; i += 4 * MOEPLAN_LANES)
      UNROLL for (int j = 0; j < 4; ++j) {
    const vfloat v = load_f32(x + i + j * MOEPLAN_LANES);
    squares[j] += v * v;
  }
  float sum = sum_lanes((squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (; i < features; ++i)
    sum += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(sum / (float)features + (float)epsilon);
  for (i = 0; i < features; ++i)
    out[i] = x[i] * scale * weight[i];
}

/* The operand of a row of float32, normalised first where `normalize`. `scratch` has room for the
 * row. */
INLINE void make_operand(char *row, int64_t forms, const float *x, const float *scale,
                         int64_t features, int64_t normalize, double epsilon, float *scratch) {
  if (normalize)
    normalize_row(x, scale, scratch, features, epsilon);
  store_operand(row, forms, features, 0, features, normalize ? scratch : x);
}

#endif
