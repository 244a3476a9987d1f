/* The instructions that the vector extension has no spelling for, and what stands in for them where
 * a CPU lacks them. The build makes one bitcode library per set (see kernels/CMakeLists.txt); the
 * compiler takes the best one that the target CPU has.
 *
 *   bf16 pairs     AVX512-BF16: vdpbf16ps.           Else: two shifts and two multiply-adds.
 *   8-bit codes    AVX512-VNNI, AVX-VNNI: vpdpbusd.  AVX-512, AVX2: vpmaddubsw and vpmaddwd.
 *                  Else: 32-bit products, byte by byte.
 */
#ifndef MOEPLAN_KERNELS_CPU_ISA_H
#define MOEPLAN_KERNELS_CPU_ISA_H

#include "simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

INLINE vuint splat(uint32_t x) { return (vuint){0} + x; }

/* acc[r] += x.lo * w[r].lo + x.hi * w[r].hi: all hold two bf16. */
INLINE void dot_pair(vfloat *acc, vuint w, uint32_t x) {
#if defined(__AVX512BF16__) && MOEPLAN_LANES == 16
  *acc = (vfloat)_mm512_dpbf16_ps((__m512)*acc, (__m512bh)w, (__m512bh)splat(x));
#else
  const vuint pair = splat(x);
  *acc += (vfloat)(w << 16) * (vfloat)(pair << 16);
  *acc += (vfloat)(w & 0xffff0000u) * (vfloat)(pair & 0xffff0000u);
#endif
}

#if defined(__AVX512VNNI__) && MOEPLAN_LANES == 16
#define MOEPLAN_HAS_VNNI 1
#define DPBUSD(acc, a, b) (vint) _mm512_dpbusd_epi32((__m512i)(acc), (__m512i)(a), (__m512i)(b))
#elif defined(__AVXVNNI__) && MOEPLAN_LANES == 8
#define MOEPLAN_HAS_VNNI 1
#define DPBUSD(acc, a, b) (vint) _mm256_dpbusd_avx_epi32((__m256i)(acc), (__m256i)(a), (__m256i)(b))
#endif

#if defined(__AVX512BW__) && MOEPLAN_LANES == 16
#define MADDUBS(a, b) _mm512_maddubs_epi16((__m512i)(a), (__m512i)(b))
#define MADD_ONES(a) _mm512_madd_epi16(a, _mm512_set1_epi16(1))
#define ADD16(a, b) _mm512_add_epi16(a, b)
typedef __m512i vshort;
#elif defined(__AVX2__) && MOEPLAN_LANES == 8
#define MADDUBS(a, b) _mm256_maddubs_epi16((__m256i)(a), (__m256i)(b))
#define MADD_ONES(a) _mm256_madd_epi16(a, _mm256_set1_epi16(1))
#define ADD16(a, b) _mm256_add_epi16(a, b)
typedef __m256i vshort;
#endif

/* acc[r] + sum over the 32 columns of a block of codes[r] * x: unsigned codes of `bits` bits, four
 * columns per word; signed x between -127 and 127, `x` its eight words. Exact. */
INLINE vint dot_block(vint acc, const int bits, const vuint *codes, const uint32_t *x) {
#if MOEPLAN_HAS_VNNI
  /* Two sums: one alone would wait for itself. */
  (void)bits;
  vint odd = {0};
  UNROLL for (int q = 0; q < 8; q += 2) {
    acc = DPBUSD(acc, codes[q], splat(x[q]));
    odd = DPBUSD(odd, codes[q + 1], splat(x[q + 1]));
  }
  return acc + odd;
#elif defined(MADDUBS)
  if (bits < 8) {
    /* Sixteen products of at most 15 * 127 stay below 2^15. */
    vshort sum = MADDUBS(codes[0], splat(x[0]));
    UNROLL for (int q = 1; q < 8; ++q) sum = ADD16(sum, MADDUBS(codes[q], splat(x[q])));
    return acc + (vint)MADD_ONES(sum);
  }
  /* A pair of products with 8-bit codes can exceed 16 bits: the lower seven bits and the upper one
   * go separately. */
  UNROLL for (int q = 0; q < 8; ++q) {
    acc += (vint)MADD_ONES(MADDUBS(codes[q] & 0x7f7f7f7fu, splat(x[q])));
    acc += (vint)MADD_ONES(MADDUBS((codes[q] >> 7) & 0x01010101u, splat(x[q]))) << 7;
  }
  return acc;
#else
  (void)bits;
  UNROLL for (int q = 0; q < 8; ++q) UNROLL for (int byte = 0; byte < 4; ++byte) acc +=
      (vint)((codes[q] >> (8 * byte)) & 0xff) * (int32_t)(int8_t)(x[q] >> (8 * byte));
  return acc;
#endif
}

#endif
