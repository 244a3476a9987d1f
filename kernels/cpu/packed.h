/* Products with weights that are stored in tiles of 16 rows (see kernel_abi.h): packed integers and
 * pairs of bf16. A vector holds the same columns of LANES rows, so that nothing is summed across
 * lanes, each activation is a broadcast, and a tile is one contiguous run of memory. */
#ifndef MOEPLAN_KERNELS_CPU_PACKED_H
#define MOEPLAN_KERNELS_CPU_PACKED_H

#include "isa.h"
#include "operand.h"

/* A packed integer weight; all but the pointer are constants once inlined. `group_shift` is the
 * binary logarithm of the group size. */
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
INLINE int64_t packed_group_blocks(packed_weight w) {
  return (1 << w.group_shift) / MOEPLAN_BLOCK_COLUMNS;
}
enum { WORD_BYTES = 4 * MOEPLAN_TILE_ROWS, SCALE_BYTES = 2 * MOEPLAN_TILE_ROWS };
INLINE const char *packed_tile(packed_weight w, int64_t tile) {
  return (const char *)w.data +
         tile * (packed_blocks(w) * w.bits * WORD_BYTES + packed_groups(w) * SCALE_BYTES);
}

/* Where the codes of columns 4 * quad .. 4 * quad + 3 of a block are: in word `word`, from bit
 * `shift` of each byte; for 3 bits without their upper bits, which are in word 2. */
INLINE int packed_word(int bits, int quad) {
  return bits == 8 ? quad : bits == 4 ? quad / 2 : quad / 4;
}
INLINE int packed_shift(int bits, int quad) {
  return bits == 8 ? 0 : bits == 4 ? 4 * (quad % 2) : 2 * (quad % 4);
}

INLINE vuint shift_bits(vuint v, int right) { return right < 0 ? v << -right : v >> right; }

/* The codes of a block: four columns of LANES rows per vector. */
INLINE void packed_unpack(int bits, const uint32_t *words, vuint *codes) {
  vuint word[8];
  UNROLL for (int i = 0; i < bits; ++i) word[i] =
      *(const vuint_mem *)(words + i * MOEPLAN_TILE_ROWS);
  UNROLL for (int quad = 0; quad < 8; ++quad) {
    codes[quad] = word[packed_word(bits, quad)];
    if (bits == 4)
      codes[quad] = (codes[quad] >> packed_shift(4, quad)) & 0x0f0f0f0fu;
    if (bits <= 3)
      codes[quad] = (codes[quad] >> packed_shift(2, quad)) & 0x03030303u;
    if (bits == 3)
      codes[quad] |= shift_bits(word[2], quad - 2) & 0x04040404u;
  }
}

INLINE vfloat byte_to_float(const uint8_t *bytes) {
  /* By way of signed numbers, whose conversion every CPU has. */
  return __builtin_convertvector((vint) __builtin_convertvector(*(const vbyte_mem *)bytes, vuint),
                                 vfloat);
}

/* One stretch of `blocks` blocks from `block` on: columns that share one scale of w and one of x,
 * whose products are summed as integers, exactly. `codes` and `group` are those of LANES rows. */
INLINE void packed_stretch(const char *codes, const uint8_t *group, const char *const *x,
                           int64_t block, int64_t blocks, const int bits, const int tokens,
                           const int64_t prefetch, vfloat *sum) {
  vint dot[8];
  float x_sum[8];
  UNROLL for (int t = 0; t < tokens; ++t) dot[t] = (vint){0};
  for (int64_t b = 0; b < blocks; ++b) {
    vuint code[8];
    packed_unpack(bits, (const uint32_t *)codes, code);
    if (prefetch)
      UNROLL for (int i = 0; i < bits; ++i) __builtin_prefetch(codes + i * WORD_BYTES + prefetch);
    codes += bits * WORD_BYTES;
    UNROLL for (int t = 0; t < tokens; ++t) {
      const moeplan_q8_block *q = (const moeplan_q8_block *)x[t] + block + b;
      dot[t] = dot_block(dot[t], bits, code, (const uint32_t *)q->codes);
      x_sum[t] = b == 0 ? q->sum : x_sum[t] + q->sum;
    }
  }
  const vfloat scale = (vfloat)((__builtin_convertvector(*(const vbyte_mem *)group, vuint) << 20) +
                                MOEPLAN_SCALE_BIAS);
  const vfloat offset =
      byte_to_float(group + MOEPLAN_TILE_ROWS) * ((float)(1 << bits) / 256) * scale;
  UNROLL for (int t = 0; t < tokens; ++t) {
    const vfloat product = __builtin_convertvector(dot[t], vfloat);
    sum[t] += product * (scale * ((const moeplan_q8_block *)x[t] + block)->scale);
    sum[t] -= offset * x_sum[t];
  }
}

/* out[t][r] = sum_k x[t][k] * w[row + r][k] for LANES rows; row is a multiple of LANES.
 *
 *   sum_k x w = sum over stretches of  xs ws (sum code_x code_w) - ws zero (xs sum code_x)
 *
 * The sum of an element runs in the same order whatever `tokens` is. `prefetch` is how many bytes
 * ahead codes are fetched, 0: not at all; `unroll` groups make a turn of the loop. */
INLINE void packed_dot_tile(packed_weight w, const char *const *x, int64_t row, const int tokens,
                            const int64_t prefetch, const int64_t unroll, float *out) {
  enum { most_blocks = MOEPLAN_ACTIVATION_BLOCK / MOEPLAN_BLOCK_COLUMNS };
  const int64_t blocks = packed_blocks(w), group_blocks = packed_group_blocks(w);
  const int64_t stretch = group_blocks < most_blocks ? group_blocks : (int64_t)most_blocks;
  const int64_t code_bytes = group_blocks * w.bits * WORD_BYTES;
  const int64_t lane = row % MOEPLAN_TILE_ROWS;
  const char *at = packed_tile(w, row / MOEPLAN_TILE_ROWS) + 4 * lane;
  vfloat sum[8];
  UNROLL for (int t = 0; t < tokens; ++t) sum[t] = (vfloat){0};
  int64_t block = 0;
/* A whole group, whose stretches are whole too. */
#define GROUP(first, begin)                                                                        \
  ROLLED for (int64_t b = 0; b < group_blocks; b += stretch) packed_stretch(                       \
      (begin) + b * w.bits * WORD_BYTES, (const uint8_t *)(begin) + code_bytes - 3 * lane, x,      \
      (first) + b, stretch, w.bits, tokens, prefetch, sum)
  if (unroll > 1)
    ROLLED for (; block + unroll * group_blocks <= blocks; block += unroll * group_blocks) {
      UNROLL for (int64_t u = 0; u < unroll; ++u)
          GROUP(block + u * group_blocks, at + u * (code_bytes + SCALE_BYTES));
      at += unroll * (code_bytes + SCALE_BYTES);
    }
  ROLLED for (; block + group_blocks <= blocks; block += group_blocks) {
    GROUP(block, at);
    at += code_bytes + SCALE_BYTES;
  }
#undef GROUP
  const int64_t rest = blocks - block;
  ROLLED for (int64_t b = 0; b < rest; b += stretch) packed_stretch(
      at + b * w.bits * WORD_BYTES, (const uint8_t *)at + rest * w.bits * WORD_BYTES - 3 * lane, x,
      block + b, b + stretch < rest ? stretch : rest - b, w.bits, tokens, prefetch, sum);
  UNROLL for (int t = 0; t < tokens; ++t) store_f32(out + t * MOEPLAN_LANES, sum[t]);
}

/* out[t][r] = sum over `pairs` (an even number) of pairs of bf16: w.lo x.lo + w.hi x.hi, with the
 * pairs of a row 16 words apart and x[t] contiguous. Two sums, for even and odd pairs, so that
 * additions do not wait for each other. */
INLINE void pair_dot(const uint32_t *words, int64_t pairs, const uint32_t *const *x,
                     const int tokens, const int64_t prefetch, const int64_t unroll, float *out) {
  vfloat even[8], odd[8];
  UNROLL for (int t = 0; t < tokens; ++t) even[t] = odd[t] = (vfloat){0};
  int64_t p = 0;
#define PAIRS_AT(at)                                                                               \
  do {                                                                                             \
    const uint32_t *line = words + (at) * MOEPLAN_TILE_ROWS;                                       \
    const vuint first = *(const vuint_mem *)line;                                                  \
    const vuint second = *(const vuint_mem *)(line + MOEPLAN_TILE_ROWS);                           \
    if (prefetch) {                                                                                \
      __builtin_prefetch((const char *)line + prefetch);                                           \
      __builtin_prefetch((const char *)(line + MOEPLAN_TILE_ROWS) + prefetch);                     \
    }                                                                                              \
    UNROLL for (int t = 0; t < tokens; ++t) {                                                      \
      dot_pair(&even[t], first, x[t][at]);                                                         \
      dot_pair(&odd[t], second, x[t][(at) + 1]);                                                   \
    }                                                                                              \
  } while (0)
  if (unroll > 1)
    ROLLED for (; p + 2 * unroll <= pairs; p += 2 * unroll)
        UNROLL for (int64_t u = 0; u < unroll; ++u) PAIRS_AT(p + 2 * u);
  ROLLED for (; p < pairs; p += 2) PAIRS_AT(p);
#undef PAIRS_AT
  UNROLL for (int t = 0; t < tokens; ++t) store_f32(out + t * MOEPLAN_LANES, even[t] + odd[t]);
}

/* LANES rows, from `row`, of a bf16 weight of `columns` columns; x the BF16 form. */
INLINE void pair_dot_tile(const void *w, int64_t columns, const char *const *x, int64_t row,
                          const int tokens, const int64_t prefetch, const int64_t unroll,
                          float *out) {
  const int64_t pairs = MOEPLAN_PAIRS(columns);
  pair_dot((const uint32_t *)w + row / MOEPLAN_TILE_ROWS * pairs * MOEPLAN_TILE_ROWS +
               row % MOEPLAN_TILE_ROWS,
           pairs, (const uint32_t *const *)x, tokens, prefetch, unroll, out);
}

/* One element. */
INLINE float packed_element(packed_weight w, int64_t row, int64_t k) {
  const int64_t lane = row % MOEPLAN_TILE_ROWS, group_blocks = packed_group_blocks(w);
  const int64_t first = (k >> w.group_shift) * group_blocks; /* block of the group */
  const int64_t left = packed_blocks(w) - first;
  const char *at = packed_tile(w, row / MOEPLAN_TILE_ROWS) +
                   (k >> w.group_shift) * (group_blocks * w.bits * WORD_BYTES + SCALE_BYTES);
  const uint32_t *words =
      (const uint32_t *)(at + (k / MOEPLAN_BLOCK_COLUMNS - first) * w.bits * WORD_BYTES) + lane;
  const int quad = (int)(k % MOEPLAN_BLOCK_COLUMNS / 4), byte = 8 * (int)(k % 4);
  uint32_t code =
      words[packed_word(w.bits, quad) * MOEPLAN_TILE_ROWS] >> (byte + packed_shift(w.bits, quad));
  if (w.bits == 3)
    code = (code & 3) | ((words[2 * MOEPLAN_TILE_ROWS] >> (byte + quad) & 1) << 2);
  code &= (1u << w.bits) - 1;
  const uint8_t *group = (const uint8_t *)at +
                         (left < group_blocks ? left : group_blocks) * w.bits * WORD_BYTES + lane;
  const uint32_t scale_bits = ((uint32_t)group[0] << 20) + MOEPLAN_SCALE_BIAS;
  float scale;
  __builtin_memcpy(&scale, &scale_bits, 4);
  return scale * ((float)code - group[MOEPLAN_TILE_ROWS] * ((float)(1 << w.bits) / 256));
}

#endif
