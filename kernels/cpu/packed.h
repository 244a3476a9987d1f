/* Reading weights of the packed integer formats (see kernel_abi.h): a vector holds LANES rows of
 * one column, so that sums need no reduction across lanes and each activation is a broadcast. */
#ifndef MOEPLAN_KERNELS_CPU_PACKED_H
#define MOEPLAN_KERNELS_CPU_PACKED_H

#include "simd.h"

#define UNROLL _Pragma("clang loop unroll(full)")
/* For loops over columns: their body fills the pipeline already, and unrolled by the constant of a
 * shape it would only grow. */
#define ROLLED _Pragma("clang loop unroll(disable) vectorize(disable)")

/* A packed weight; all but the pointer are constants once inlined. `group_shift` is the binary
 * logarithm of the group size. */
typedef struct {
  const void *data;
  int64_t rows, columns;
  int bits, group_shift;
} packed_weight;

INLINE int64_t packed_blocks(packed_weight w) {
  return (w.columns + MOEPLAN_BLOCK_COLUMNS - 1) / MOEPLAN_BLOCK_COLUMNS;
}
INLINE int64_t packed_groups(packed_weight w) {
  return (w.columns + (1 << w.group_shift) - 1) >> w.group_shift;
}
/* The codes of a tile, as words; those of row `lane` start at + lane. */
INLINE const uint32_t *packed_codes(packed_weight w, int64_t tile) {
  return (const uint32_t *)w.data + tile * packed_blocks(w) * w.bits * MOEPLAN_TILE_ROWS;
}
INLINE const uint8_t *packed_scales(packed_weight w, int64_t tile) {
  const int64_t tiles = (w.rows + MOEPLAN_TILE_ROWS - 1) / MOEPLAN_TILE_ROWS;
  return (const uint8_t *)packed_codes(w, tiles) + tile * packed_groups(w) * 2 * MOEPLAN_TILE_ROWS;
}

/* Where the code of column 4 * quad + byte of a block is: in word `word` from bit `shift`, for 3
 * bits without its upper bit, which is in word 2. */
INLINE int packed_word(int bits, int quad) {
  return bits == 8 ? quad : bits == 4 ? quad / 2 : quad / 4;
}
INLINE int packed_shift(int bits, int quad, int byte) {
  return 8 * byte + (bits == 8 ? 0 : bits == 4 ? 4 * (quad % 2) : 2 * (quad % 4));
}
#define PACKED_CODE(bits, words, quad, byte)                                                       \
  ((bits) == 3 ? (((words)[packed_word(bits, quad)] >> packed_shift(bits, quad, byte)) & 3) |      \
                     ((((words)[2] >> (8 * (byte) + (quad))) & 1) << 2)                            \
               : ((words)[packed_word(bits, quad)] >> packed_shift(bits, quad, byte)) &            \
                     ((1u << (bits)) - 1))

INLINE vfloat vuint_to_float(vuint v) {
  /* Codes are small: converted as signed numbers, which every CPU can. */
  typedef int32_t vint __attribute__((vector_size(4 * MOEPLAN_LANES)));
  return __builtin_convertvector((vint)v, vfloat);
}

/* Adds columns 0 .. count - 1 of a block to the sums: an element is code * scale - zero * scale.
 * Two sums per token, for even and odd columns, so that additions do not wait for each other. */
INLINE void packed_block(int bits, const uint32_t *codes, const uint8_t *group,
                         const float *const *x, int64_t k, const int64_t count, const int tokens,
                         vfloat *even, vfloat *odd) {
  vuint words[8];
  UNROLL for (int i = 0; i < bits; ++i) words[i] =
      *(const vuint_mem *)(codes + i * MOEPLAN_TILE_ROWS);
  const vuint scale_bits = __builtin_convertvector(*(const vbyte_mem *)group, vuint);
  const vuint zero_bits =
      __builtin_convertvector(*(const vbyte_mem *)(group + MOEPLAN_TILE_ROWS), vuint);
  const vfloat scale = (vfloat)((scale_bits << 20) + MOEPLAN_SCALE_BIAS);
  const vfloat offset = vuint_to_float(zero_bits) * ((float)(1 << bits) / 256) * scale;
  UNROLL for (int quad = 0; quad < 8; ++quad) UNROLL for (int byte = 0; byte < 4; ++byte) {
    const int column = 4 * quad + byte;
    if (column < count) {
      const vuint code = PACKED_CODE(bits, words, quad, byte);
      const vfloat weights = vuint_to_float(code) * scale - offset;
      vfloat *sum = byte % 2 ? odd : even;
      UNROLL for (int t = 0; t < tokens; ++t) sum[t] += x[t][k + column] * weights;
    }
  }
}

/* out[t][r] = sum_k x[t][k] * w[row + r][k] for LANES rows; row is a multiple of LANES. The sum of
 * an element runs in the same order whatever `tokens` is. */
INLINE void packed_dot_tile(packed_weight w, const float *const *x, int64_t row, const int tokens,
                            float *out) {
  const int64_t tile = row / MOEPLAN_TILE_ROWS, lane = row % MOEPLAN_TILE_ROWS;
  const uint32_t *codes = packed_codes(w, tile) + lane;
  const uint8_t *scales = packed_scales(w, tile) + lane;
  vfloat even[8], odd[8];
  UNROLL for (int t = 0; t < tokens; ++t) even[t] = odd[t] = (vfloat){0};
  int64_t k = 0;
  ROLLED for (; k + MOEPLAN_BLOCK_COLUMNS <= w.columns; k += MOEPLAN_BLOCK_COLUMNS) {
    packed_block(w.bits, codes, scales + (k >> w.group_shift) * 2 * MOEPLAN_TILE_ROWS, x, k,
                 MOEPLAN_BLOCK_COLUMNS, tokens, even, odd);
    codes += w.bits * MOEPLAN_TILE_ROWS;
  }
  if (k < w.columns)
    packed_block(w.bits, codes, scales + (k >> w.group_shift) * 2 * MOEPLAN_TILE_ROWS, x, k,
                 w.columns - k, tokens, even, odd);
  UNROLL for (int t = 0; t < tokens; ++t) store_f32(out + t * MOEPLAN_LANES, even[t] + odd[t]);
}

/* One element. */
INLINE float packed_element(packed_weight w, int64_t row, int64_t k) {
  const int64_t tile = row / MOEPLAN_TILE_ROWS, lane = row % MOEPLAN_TILE_ROWS;
  const uint32_t *words =
      packed_codes(w, tile) + k / MOEPLAN_BLOCK_COLUMNS * w.bits * MOEPLAN_TILE_ROWS + lane;
  const int quad = (int)(k % MOEPLAN_BLOCK_COLUMNS / 4), byte = (int)(k % 4);
  uint32_t code =
      words[packed_word(w.bits, quad) * MOEPLAN_TILE_ROWS] >> packed_shift(w.bits, quad, byte);
  if (w.bits == 3)
    code = (code & 3) | ((words[2 * MOEPLAN_TILE_ROWS] >> (8 * byte + quad) & 1) << 2);
  code &= (1u << w.bits) - 1;
  const uint8_t *group =
      packed_scales(w, tile) + (k >> w.group_shift) * 2 * MOEPLAN_TILE_ROWS + lane;
  const uint32_t scale_bits = ((uint32_t)group[0] << 20) + MOEPLAN_SCALE_BIAS;
  float scale;
  __builtin_memcpy(&scale, &scale_bits, 4);
  return scale * ((float)code - group[MOEPLAN_TILE_ROWS] * ((float)(1 << w.bits) / 256));
}

#endif
