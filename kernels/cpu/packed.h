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
/* The codes of a tile, as words; those of row `lane` start at + lane. */
INLINE const uint32_t *packed_codes(packed_weight w, int64_t tile) {
  return (const uint32_t *)w.data + tile * packed_blocks(w) * w.bits * MOEPLAN_TILE_ROWS;
}
INLINE const uint8_t *packed_scales(packed_weight w, int64_t tile) {
  const int64_t tiles = (w.rows + MOEPLAN_TILE_ROWS - 1) / MOEPLAN_TILE_ROWS;
  return (const uint8_t *)packed_codes(w, tiles) + tile * packed_groups(w) * 2 * MOEPLAN_TILE_ROWS;
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

/* A walk along the columns of LANES rows. */
typedef struct {
  const uint32_t *codes;
  const uint8_t *scales;
  const char *const *x;
  int64_t blocks, group_blocks, stretch;
  vfloat sum[8];
} packed_walk;

/* One stretch: columns that share one scale of w and one of x, whose products are summed as
 * integers, exactly. */
INLINE void packed_stretch(packed_walk *walk, int64_t block, const int bits, const int tokens,
                           const int64_t prefetch) {
  const int64_t end = block + walk->stretch < walk->blocks ? block + walk->stretch : walk->blocks;
  vint dot[8];
  float x_sum[8];
  UNROLL for (int t = 0; t < tokens; ++t) dot[t] = (vint){0};
  for (int64_t b = block; b < end; ++b) {
    vuint code[8];
    packed_unpack(bits, walk->codes, code);
    if (prefetch)
      UNROLL for (int i = 0; i < bits; ++i)
          __builtin_prefetch((const char *)(walk->codes + i * MOEPLAN_TILE_ROWS) + prefetch);
    walk->codes += bits * MOEPLAN_TILE_ROWS;
    UNROLL for (int t = 0; t < tokens; ++t) {
      const moeplan_q8_block *q = (const moeplan_q8_block *)walk->x[t] + b;
      dot[t] = dot_block(dot[t], bits, code, (const uint32_t *)q->codes);
      x_sum[t] = b == block ? q->sum : x_sum[t] + q->sum;
    }
  }
  const uint8_t *group = walk->scales + (block / walk->group_blocks) * 2 * MOEPLAN_TILE_ROWS;
  const vfloat scale = (vfloat)((__builtin_convertvector(*(const vbyte_mem *)group, vuint) << 20) +
                                MOEPLAN_SCALE_BIAS);
  const vfloat offset =
      byte_to_float(group + MOEPLAN_TILE_ROWS) * ((float)(1 << bits) / 256) * scale;
  UNROLL for (int t = 0; t < tokens; ++t) {
    const vfloat product = __builtin_convertvector(dot[t], vfloat);
    walk->sum[t] += product * (scale * ((const moeplan_q8_block *)walk->x[t] + block)->scale);
    walk->sum[t] -= offset * x_sum[t];
  }
}

/* out[t][r] = sum_k x[t][k] * w[row + r][k] for LANES rows; row is a multiple of LANES.
 *
 *   sum_k x w = sum over stretches of  xs ws (sum code_x code_w) - ws zero (xs sum code_x)
 *
 * The sum of an element runs in the same order whatever `tokens` is. `prefetch` is how many bytes
 * ahead codes are fetched, 0: not at all; `unroll` stretches make a turn of the loop. */
INLINE void packed_dot_tile(packed_weight w, const char *const *x, int64_t row, const int tokens,
                            const int64_t prefetch, const int64_t unroll, float *out) {
  enum { most_blocks = MOEPLAN_ACTIVATION_BLOCK / MOEPLAN_BLOCK_COLUMNS };
  const int64_t tile = row / MOEPLAN_TILE_ROWS, lane = row % MOEPLAN_TILE_ROWS;
  packed_walk walk;
  walk.codes = packed_codes(w, tile) + lane;
  walk.scales = packed_scales(w, tile) + lane;
  walk.x = x;
  walk.blocks = packed_blocks(w);
  walk.group_blocks = (1 << w.group_shift) / MOEPLAN_BLOCK_COLUMNS;
  walk.stretch = walk.group_blocks < most_blocks ? walk.group_blocks : (int64_t)most_blocks;
  UNROLL for (int t = 0; t < tokens; ++t) walk.sum[t] = (vfloat){0};
  int64_t block = 0;
  if (unroll > 1)
    ROLLED for (; block + unroll * walk.stretch <= walk.blocks; block += unroll * walk.stretch)
        UNROLL for (int64_t u = 0; u < unroll; ++u)
            packed_stretch(&walk, block + u * walk.stretch, w.bits, tokens, prefetch);
  ROLLED for (; block < walk.blocks; block += walk.stretch)
      packed_stretch(&walk, block, w.bits, tokens, prefetch);
  UNROLL for (int t = 0; t < tokens; ++t) store_f32(out + t * MOEPLAN_LANES, walk.sum[t]);
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
  const int64_t tile = row / MOEPLAN_TILE_ROWS, lane = row % MOEPLAN_TILE_ROWS;
  const uint32_t *words =
      packed_codes(w, tile) + k / MOEPLAN_BLOCK_COLUMNS * w.bits * MOEPLAN_TILE_ROWS + lane;
  const int quad = (int)(k % MOEPLAN_BLOCK_COLUMNS / 4), byte = 8 * (int)(k % 4);
  uint32_t code =
      words[packed_word(w.bits, quad) * MOEPLAN_TILE_ROWS] >> (byte + packed_shift(w.bits, quad));
  if (w.bits == 3)
    code = (code & 3) | ((words[2 * MOEPLAN_TILE_ROWS] >> (byte + quad) & 1) << 2);
  code &= (1u << w.bits) - 1;
  const uint8_t *group =
      packed_scales(w, tile) + (k >> w.group_shift) * 2 * MOEPLAN_TILE_ROWS + lane;
  const uint32_t scale_bits = ((uint32_t)group[0] << 20) + MOEPLAN_SCALE_BIAS;
  float scale;
  __builtin_memcpy(&scale, &scale_bits, 4);
  return scale * ((float)code - group[MOEPLAN_TILE_ROWS] * ((float)(1 << w.bits) / 256));
}

#endif
