// Arithmetic on 16 rows at once, the same bits on every CPU.
//
// A quantiser works on tiles of 16 rows, one row per lane, so that nothing is ever summed across
// lanes. The vectors are the compiler's own (64 bytes wide, split where the CPU's are narrower),
// the files that use them are compiled without contraction into fused multiply-adds, and what is
// left is IEEE arithmetic in a fixed order: artifacts do not depend on the machine that made them.
#pragma once

#include "kernel_abi.h"

#include <cstdint>

namespace moeplan::compiler {

constexpr unsigned kLanes = MOEPLAN_TILE_ROWS;

typedef float Lanes __attribute__((vector_size(64), aligned(64)));
typedef int32_t IntLanes __attribute__((vector_size(64), aligned(64)));
typedef uint32_t WordLanes __attribute__((vector_size(64), aligned(64)));

#define MOEPLAN_LANES_INLINE static inline __attribute__((always_inline))

/// On a function: compiled for several instruction sets, chosen when the program starts. Not under
/// a sanitizer, whose run time is not up when the choice is made; nor by clang, which refuses to
/// inline functions with vector arguments into clones for wider sets: built by it, quantisers are
/// slower.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                             \
    !defined(__SANITIZE_ADDRESS__)
#define MOEPLAN_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MOEPLAN_MULTIVERSION
#endif

MOEPLAN_LANES_INLINE Lanes splat(float value) { return Lanes{} + value; }
MOEPLAN_LANES_INLINE Lanes minimum(Lanes a, Lanes b) { return a < b ? a : b; }
MOEPLAN_LANES_INLINE Lanes maximum(Lanes a, Lanes b) { return a > b ? a : b; }
MOEPLAN_LANES_INLINE Lanes magnitude(Lanes a) { return a < 0 ? -a : a; }
/// To the nearest whole number, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no bit for a
/// fraction.
MOEPLAN_LANES_INLINE Lanes nearest(Lanes a) { return (a + 12582912.0f) - 12582912.0f; }
/// The nearest code, 0 .. `largest`. Clamped first, so that any finite number has one.
MOEPLAN_LANES_INLINE Lanes nearestCode(Lanes a, float largest) {
  return nearest(minimum(maximum(a, Lanes{}), splat(largest)));
}
MOEPLAN_LANES_INLINE IntLanes toInt(Lanes a) { return __builtin_convertvector(a, IntLanes); }
MOEPLAN_LANES_INLINE Lanes toFloat(IntLanes a) { return __builtin_convertvector(a, Lanes); }

/// The E5M3 byte (see kernel_abi.h) nearest to a scale >= 0; the ends of the range where it is
/// beyond them.
MOEPLAN_LANES_INLINE IntLanes encodeScale(Lanes scale) {
  const IntLanes rounded = (IntLanes)scale + (1 << 19); // half of a unit of the 3 bit mantissa
  const IntLanes code = (rounded - int32_t(MOEPLAN_SCALE_BIAS)) >> 20;
  const IntLanes low = code > 0 ? code : IntLanes{};
  return low < 255 ? low : IntLanes{} + 255;
}
MOEPLAN_LANES_INLINE Lanes decodeScale(IntLanes code) {
  return (Lanes)((code << 20) + int32_t(MOEPLAN_SCALE_BIAS));
}
/// The byte of a zero point given in units of codes; `steps` is 256 / 2^bits.
MOEPLAN_LANES_INLINE IntLanes encodeZero(Lanes zero, float steps) {
  return toInt(nearest(minimum(maximum(zero * steps, Lanes{}), splat(255))));
}
MOEPLAN_LANES_INLINE Lanes decodeZero(IntLanes code, float steps) {
  return toFloat(code) * (1.0f / steps); // a power of two: exact
}

} // namespace moeplan::compiler
