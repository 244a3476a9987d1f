/* Vectors of MOEPLAN_LANES floats, in the vector extension that clang and gcc share: the same
 * source becomes SSE, AVX2, AVX-512 or NEON code, as the target CPU of a specialisation says. The
 * build makes one bitcode per lane count; the compiler takes the one that fills a register. */
#ifndef MOEPLAN_KERNELS_CPU_SIMD_H
#define MOEPLAN_KERNELS_CPU_SIMD_H

#include "kernels.h"

#include <stddef.h>

#ifndef MOEPLAN_LANES
#error "MOEPLAN_LANES is the number of float32 lanes: 4, 8 or 16"
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vfloat __attribute__((vector_size(4 * MOEPLAN_LANES)));
typedef uint32_t vuint __attribute__((vector_size(4 * MOEPLAN_LANES)));
typedef uint16_t vhalf __attribute__((vector_size(2 * MOEPLAN_LANES)));
typedef uint8_t vbyte __attribute__((vector_size(MOEPLAN_LANES)));
/* The same in memory: element-aligned. */
typedef float vfloat_mem __attribute__((vector_size(4 * MOEPLAN_LANES), aligned(4), may_alias));
typedef uint32_t vuint_mem __attribute__((vector_size(4 * MOEPLAN_LANES), aligned(4), may_alias));
typedef uint16_t vhalf_mem __attribute__((vector_size(2 * MOEPLAN_LANES), aligned(2), may_alias));
typedef uint8_t vbyte_mem __attribute__((vector_size(MOEPLAN_LANES), aligned(1), may_alias));

INLINE vfloat load_f32(const float *p) { return *(const vfloat_mem *)p; }
INLINE void store_f32(float *p, vfloat v) { *(vfloat_mem *)p = v; }

INLINE vfloat load_bf16(const uint16_t *p) {
  return (vfloat)(__builtin_convertvector(*(const vhalf_mem *)p, vuint) << 16);
}

INLINE float bf16_to_f32(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  __builtin_memcpy(&value, &wide, 4);
  return value;
}

/* To the nearest bf16, ties to even; NaN stays NaN. */
INLINE uint16_t f32_to_bf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  if (value != value)
    return (uint16_t)((bits >> 16) | 0x40);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* LANES elements of a row of `format`, f32 or bf16, from column k. `format` is a constant once
 * inlined. */
INLINE vfloat load_weights(int64_t format, const void *row, int64_t k) {
  return format == MOEPLAN_FORMAT_BF16 ? load_bf16((const uint16_t *)row + k)
                                       : load_f32((const float *)row + k);
}

INLINE float load_weight(int64_t format, const void *row, int64_t k) {
  return format == MOEPLAN_FORMAT_BF16 ? bf16_to_f32(((const uint16_t *)row)[k])
                                       : ((const float *)row)[k];
}

INLINE int64_t element_bytes(int64_t format) { return format == MOEPLAN_FORMAT_BF16 ? 2 : 4; }

INLINE const void *weight_row(int64_t format, const void *w, int64_t row, int64_t columns) {
  return (const char *)w + row * columns * element_bytes(format);
}

/* The sum as a tree: the upper half onto the lower, log2(lanes) times. -1: a lane nobody reads. */
INLINE float sum_lanes(vfloat v) {
#if MOEPLAN_LANES == 16
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  v += __builtin_shufflevector(v, v, 2, 3, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
#elif MOEPLAN_LANES == 8
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, -1, -1, -1, -1);
  v += __builtin_shufflevector(v, v, 2, 3, -1, -1, -1, -1, -1, -1);
#else
  v += __builtin_shufflevector(v, v, 2, 3, -1, -1);
#endif
  return v[0] + v[1];
}

/* e^x to about 1 ulp: x = n ln2 + r, |r| <= ln2 / 2, Taylor's series of e^r to degree 7 (remainder
 * 2e-9 relative). Flushes to 0 below the smallest normal number, saturates above the largest finite
 * one; NaN stays NaN. Rounds by conversion, since floor would be a library call on plain x86-64. */
INLINE float exp_f32(float x) {
  const float at_most = x < 88.3f ? x : 88.3f;
  const float clamped = at_most > -87.3f ? at_most : -87.3f; /* NaN ends here too */
  const float shifted = clamped * 1.44269504f;
  const int32_t n = (int32_t)(shifted + (shifted < 0 ? -0.5f : 0.5f));
  const float r = clamped - n * 0.693359375f + n * 2.12194440e-4f; /* ln2 in two parts */
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t scale_bits = (uint32_t)(n + 127) << 23;
  float scale;
  __builtin_memcpy(&scale, &scale_bits, 4);
  return x != x ? x : (x < -87.3f ? 0.0f : p * scale);
}

INLINE float silu(float x) { return x / (1.0f + exp_f32(-x)); }

#endif
