// Arithmetic on several rows at once, the same bits on every CPU.
//
// A quantiser works on tiles of 16 rows, one row per lane, so that nothing is ever summed across
// lanes: whether all 16, 8 or 4 rows are in a vector changes nothing but the speed. The vectors are
// the compiler's own, of the width that the CPU has (wider ones go through memory at each
// operation), the files that use them are compiled without contraction into fused multiply-adds,
// and what is left is IEEE arithmetic in a fixed order: artifacts do not depend on the machine that
// made them.
#pragma once

#include "kernel_abi.h"

#include <cstdint>

namespace moeplan::compiler {

/// Rows of a tile.
constexpr unsigned kLanes = MOEPLAN_TILE_ROWS;

/// Numbers of `kRows` rows.
template <unsigned kRows> struct RowVectors {
  typedef float Float __attribute__((vector_size(4 * kRows)));
  typedef int32_t Int __attribute__((vector_size(4 * kRows)));
  typedef uint32_t Word __attribute__((vector_size(4 * kRows)));
  typedef double Double __attribute__((vector_size(4 * kRows))); ///< half as many
};
template <typename V> constexpr unsigned kRowsOf = sizeof(V) / 4;
template <typename V> using FloatOf = typename RowVectors<kRowsOf<V>>::Float;
template <typename V> using IntOf = typename RowVectors<kRowsOf<V>>::Int;
template <typename V> using WordOf = typename RowVectors<kRowsOf<V>>::Word;

#define MOEPLAN_LANES_INLINE static inline __attribute__((always_inline))

/// The rows from one on, as many as a V has, of an array [count][kLanes].
template <typename V> class Rows {
public:
  template <typename Element>
  Rows(Element *array, unsigned row) : first_(reinterpret_cast<V *>(array + row)) {}
  __attribute__((always_inline)) V &operator[](uint64_t k) const {
    return first_[k * (kLanes / kRowsOf<V>)];
  }
  __attribute__((always_inline)) Rows operator+(uint64_t k) const { return Rows(&(*this)[k]); }

private:
  explicit Rows(V *first) : first_(first) {}
  V *first_;
};

/// Rows that fit a vector of this CPU, 16, 8 or 4; at most `limitLanes`.
unsigned lanesAtOnce();
/// For tests, which compare what the widths give. Not while anything is quantised.
void limitLanes(unsigned most);

/// Defines a function `name` of `parameters`, which `arguments` passes on, for several instruction
/// sets; it returns nothing. `body` sees F, the vector of the widest of them that the CPU has, and
/// is inlined: a call of a template. Clang refuses to inline functions with vector arguments into
/// ones for wider sets: built by it, quantisers are slower.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MOEPLAN_BY_INSTRUCTION_SET(name, parameters, arguments, body)                              \
  MOEPLAN_FOR_INSTRUCTION_SET(__attribute__((target("avx512f"))), 16, name, parameters, body)      \
  MOEPLAN_FOR_INSTRUCTION_SET(__attribute__((target("avx2"))), 8, name, parameters, body)          \
  MOEPLAN_FOR_INSTRUCTION_SET(, 4, name, parameters, body)                                         \
  static void name parameters {                                                                    \
    const unsigned lanes = lanesAtOnce();                                                          \
    (lanes == 16 ? name##16 : lanes == 8 ? name##8 : name##4) arguments;                           \
  }
#else
#define MOEPLAN_BY_INSTRUCTION_SET(name, parameters, arguments, body)                              \
  MOEPLAN_FOR_INSTRUCTION_SET(, 4, name, parameters, body)                                         \
  static void name parameters { name##4 arguments; }
#endif
#define MOEPLAN_FOR_INSTRUCTION_SET(target, lanes, name, parameters, body)                         \
  target static void name##lanes parameters {                                                      \
    using F = RowVectors<lanes>::Float;                                                            \
    body;                                                                                          \
  }
/// A body that does `call` for each part of a tile; it sees `row`, the part's first.
#define MOEPLAN_FOR_ROWS(call)                                                                     \
  for (unsigned row = 0; row < kLanes; row += kRowsOf<F>)                                          \
  call

template <typename F> MOEPLAN_LANES_INLINE F splat(float value) { return F{} + value; }
template <typename F> MOEPLAN_LANES_INLINE F minimum(F a, F b) { return a < b ? a : b; }
template <typename F> MOEPLAN_LANES_INLINE F maximum(F a, F b) { return a > b ? a : b; }
template <typename F> MOEPLAN_LANES_INLINE F magnitude(F a) { return a < 0 ? -a : a; }
/// To the nearest whole number, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no bit for a
/// fraction.
template <typename F> MOEPLAN_LANES_INLINE F nearest(F a) {
  return (a + 12582912.0f) - 12582912.0f;
}
/// The nearest code, 0 .. `largest`. Clamped first, so that any finite number has one.
template <typename F> MOEPLAN_LANES_INLINE F nearestCode(F a, float largest) {
  return nearest(minimum(maximum(a, F{}), splat<F>(largest)));
}
template <typename F> MOEPLAN_LANES_INLINE IntOf<F> toInt(F a) {
  return __builtin_convertvector(a, IntOf<F>);
}
template <typename I> MOEPLAN_LANES_INLINE FloatOf<I> toFloat(I a) {
  return __builtin_convertvector(a, FloatOf<I>);
}

/// The E5M3 byte (see kernel_abi.h) nearest to a scale >= 0; the ends of the range where it is
/// beyond them.
template <typename F> MOEPLAN_LANES_INLINE IntOf<F> encodeScale(F scale) {
  using I = IntOf<F>;
  const I rounded = (I)scale + (1 << 19); // half of a unit of the 3 bit mantissa
  const I code = (rounded - int32_t(MOEPLAN_SCALE_BIAS)) >> 20;
  const I low = code > 0 ? code : I{};
  return low < 255 ? low : I{} + 255;
}
template <typename I> MOEPLAN_LANES_INLINE FloatOf<I> decodeScale(I code) {
  return (FloatOf<I>)((code << 20) + int32_t(MOEPLAN_SCALE_BIAS));
}
/// The byte of a zero point given in units of codes; `steps` is 256 / 2^bits.
template <typename F> MOEPLAN_LANES_INLINE IntOf<F> encodeZero(F zero, float steps) {
  return toInt(nearest(minimum(maximum(zero * steps, F{}), splat<F>(255))));
}
template <typename I> MOEPLAN_LANES_INLINE FloatOf<I> decodeZero(I code, float steps) {
  return toFloat(code) * (1.0f / steps); // a power of two: exact
}

} // namespace moeplan::compiler
