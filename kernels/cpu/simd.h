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
#define UNROLL _Pragma("clang loop unroll(full)")
/* For loops over columns: their body fills the pipeline already, and unrolled by the constant of a
 * shape it would only grow. */
#define ROLLED _Pragma("clang loop unroll(disable) vectorize(disable)")

typedef float vfloat __attribute__((vector_size(4 * MOEPLAN_LANES)));
typedef uint32_t vuint __attribute__((vector_size(4 * MOEPLAN_LANES)));
typedef int32_t vint __attribute__((vector_size(4 * MOEPLAN_LANES)));
typedef uint16_t vhalf __attribute__((vector_size(2 * MOEPLAN_LANES)));
typedef uint8_t vbyte __attribute__((vector_size(MOEPLAN_LANES)));
/* The same in memory: element-aligned. */
typedef float vfloat_mem __attribute__((vector_size(4 * MOEPLAN_LANES), aligned(4), may_alias));
typedef uint32_t vuint_mem __attribute__((vector_size(4 * MOEPLAN_LANES), aligned(4), may_alias));
typedef uint16_t vhalf_mem __attribute__((vector_size(2 * MOEPLAN_LANES), aligned(2), may_alias));
typedef uint8_t vbyte_mem __attribute__((vector_size(MOEPLAN_LANES), aligned(1), may_alias));

INLINE vfloat load_f32(const float *p) { return *(const vfloat_mem *)p; }
INLINE void store_f32(float *p, vfloat v) { *(vfloat_mem *)p = v; }

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

INLINE vfloat select_f32(vint mask, vfloat a, vfloat b) {
  return (vfloat)(((vint)a & mask) | ((vint)b & ~mask));
}

/* e^x to about 1 ulp: x = n ln2 + r, |r| <= ln2 / 2, Taylor's series of e^r to degree 7 (remainder
 * 2e-9 relative). Flushes to 0 below the smallest normal number, saturates above the largest finite
 * one; NaN stays NaN. Rounds by conversion, since floor would be a library call on plain x86-64. */
INLINE vfloat exp_vector(vfloat x) {
  const vfloat zero = {0};
  const vfloat at_most = select_f32(x < 88.3f, x, zero + 88.3f);
  const vfloat clamped = select_f32(at_most > -87.3f, at_most, zero - 87.3f);
  const vint n = __builtin_convertvector(
      clamped * 1.44269504f + select_f32(clamped < 0, zero - 0.5f, zero + 0.5f), vint);
  const vfloat whole = __builtin_convertvector(n, vfloat);
  const vfloat r = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
  vfloat p = zero + 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const vfloat result = select_f32(x < -87.3f, zero, p * (vfloat)((n + 127) << 23));
  return select_f32(x != x, x, result);
}
INLINE float exp_f32(float x) { return exp_vector((vfloat){0} + x)[0]; }

INLINE float silu(float x) { return x / (1.0f + exp_f32(-x)); }

#endif
