/* The contract between the machine code in an artifact and the runtime that calls it.
 *
 * This header is shared by the micro-kernels (C), the compiler and the runtime, and includes
 * nothing of ours. It is versioned as if it were a schema: any change to a struct, an enumerator or
 * the calling convention below raises MOEPLAN_KERNEL_ABI_VERSION, and a runtime refuses a kernel
 * library of another version.
 */
#ifndef MOEPLAN_SCHEMAS_KERNEL_ABI_H
#define MOEPLAN_SCHEMAS_KERNEL_ABI_H

#include <stdint.h>

#ifdef __cplusplus
#define MOEPLAN_CONSTEXPR constexpr
extern "C" {
#else
#define MOEPLAN_CONSTEXPR
#endif

#define MOEPLAN_KERNEL_ABI_VERSION 4u

/* Every kernel library exports a `const uint32_t` of this name with the ABI version. */
#define MOEPLAN_KERNEL_ABI_SYMBOL "moeplan_kernel_abi_version"

/* How the numbers of a weight are stored. Same values as `Format` in moeplan.fbs; the table of what
 * each means is in formats.h. The packed integer formats are ordered by falling bits, then by
 * rising group size, which moeplan_format_bits() and moeplan_format_group_size() rely on. */
enum moeplan_format {
  MOEPLAN_FORMAT_NONE = 0,
  MOEPLAN_FORMAT_F32 = 1,
  MOEPLAN_FORMAT_BF16 = 2,
  MOEPLAN_FORMAT_INT8G32 = 3,
  MOEPLAN_FORMAT_INT8G64 = 4,
  MOEPLAN_FORMAT_INT8G128 = 5,
  MOEPLAN_FORMAT_INT4G32 = 6,
  MOEPLAN_FORMAT_INT4G64 = 7,
  MOEPLAN_FORMAT_INT4G128 = 8,
  MOEPLAN_FORMAT_INT3G32 = 9,
  MOEPLAN_FORMAT_INT3G64 = 10,
  MOEPLAN_FORMAT_INT3G128 = 11,
  MOEPLAN_FORMAT_INT2G32 = 12,
  MOEPLAN_FORMAT_INT2G64 = 13,
  MOEPLAN_FORMAT_INT2G128 = 14,
  MOEPLAN_FORMAT_MAX = MOEPLAN_FORMAT_INT2G128,
};

/* The packed integer formats.
 *
 * An element is scale * (code - zero): a code of `bits` bits, and a scale and a zero that
 * `group_size` neighbouring columns of a row share. The last group of a row may be shorter.
 *
 *   code   0 .. 2^bits - 1
 *   zero   one byte z, in steps that span the codes: zero = z * 2^bits / 256
 *   scale  one byte, 5 bits exponent and 3 bits mantissa: (1 + m / 8) * 2^(e - 24), so from 6e-8 to
 *          240; its float32 bits are (byte << 20) + MOEPLAN_SCALE_BIAS
 *
 * Every element is exact in float32: code - zero has 9 significant bits, a scale 4.
 *
 * A weight [rows, columns] is cut into tiles of 16 rows, a tile into groups of columns and those
 * into blocks of 32; rows and columns are padded with zeros at the end. A tile is one run of memory,
 * which is read from the front to the back: of each group first the codes of its blocks, then its
 * scales and zeros. (A second stream of scales, or scales that are read before what lies in front of
 * them, cost a fifth of the read bandwidth: kernels/cpu/README.md.) The last group of a tile may have
 * fewer blocks. Behind it the next tile begins.
 *
 *   codes   uint32 [blocks][bits][16 rows]: `bits` words hold the 32 codes of a row. Byte b of each
 *           belongs to columns 4 q + b, so that a shift and a mask give the four codes of the
 *           columns 4 q .. 4 q + 3, one per byte, of 16 rows in 64 bytes:
 *             8 bits   word q
 *             4 bits   word q / 2, bits 4 (q % 2) of each byte
 *             2 bits   word q / 4, bits 2 (q % 4) of each byte
 *             3 bits   the lower two as above; the upper one in word 2, bit q of each byte
 *   scales  uint8 [2][16 rows]: the scales, then the zeros
 */
#define MOEPLAN_TILE_ROWS 16
#define MOEPLAN_BLOCK_COLUMNS 32
#define MOEPLAN_SCALE_BIAS (103u << 23)

/* bf16 weights [rows, columns] lie in the same tiles of 16 rows: [tiles][pairs][16 rows][2], a pair
 * being two neighbouring columns. Rows and pairs are padded with zeros, pairs to an even number. */
#define MOEPLAN_PAIRS(columns) (((columns) + 3) / 4 * 2)
/* Where element (row, column) is, in elements. */
#define MOEPLAN_PAIR_INDEX(row, column, columns)                                                   \
  ((((row) / MOEPLAN_TILE_ROWS * MOEPLAN_PAIRS(columns) + (column) / 2) * MOEPLAN_TILE_ROWS +      \
    (row) % MOEPLAN_TILE_ROWS) *                                                                   \
       2 +                                                                                         \
   (column) % 2)

static inline MOEPLAN_CONSTEXPR int moeplan_format_is_packed(unsigned format) {
  return format >= MOEPLAN_FORMAT_INT8G32 && format <= MOEPLAN_FORMAT_MAX;
}
/* Bits of a code: 8, 4, 3 or 2. Of packed formats only, as the next one. */
static inline MOEPLAN_CONSTEXPR int moeplan_format_bits(unsigned format) {
  return format < MOEPLAN_FORMAT_INT4G32   ? 8
         : format < MOEPLAN_FORMAT_INT3G32 ? 4
         : format < MOEPLAN_FORMAT_INT2G32 ? 3
                                           : 2;
}
static inline MOEPLAN_CONSTEXPR int moeplan_format_group_size(unsigned format) {
  return 32 << (format - MOEPLAN_FORMAT_INT8G32) % 3;
}

/* How the KV cache stores keys and values; the layouts are in kernels/cpu/kv_cache.h. Same values as
 * `KvFormat` in moeplan.fbs. */
enum moeplan_kv_format { MOEPLAN_KV_F32 = 1, MOEPLAN_KV_BF16 = 2, MOEPLAN_KV_INT8 = 3 };

/* Positions of a cache come in multiples of this. */
#define MOEPLAN_KV_POSITIONS 32

/* Bytes that the keys of one position of one head take, and as many for the values. */
static inline MOEPLAN_CONSTEXPR unsigned moeplan_kv_row_bytes(unsigned kv_format,
                                                              unsigned head_dim) {
  return kv_format == MOEPLAN_KV_BF16   ? (head_dim + 15) / 16 * 16 * 2
         : kv_format == MOEPLAN_KV_INT8 ? (head_dim + 3) / 4 * 4 + 4
                                        : head_dim * 4;
}

/* What differs from one execution of a program to the next. */
typedef struct moeplan_step {
  uint32_t token_count;  /* live tokens (rows) of this execution, 1 .. the program's max_tokens */
  uint32_t logits_begin; /* first row whose logits are wanted, 0 .. token_count (= none) */
  uint64_t position;     /* position in the KV cache of token 0 */
  uint64_t kv_capacity;  /* positions the KV cache has room for: a multiple of 32 */
} moeplan_step;

/* One row of a layer's expert table: where the three linears of an expert are, and their formats.
 * The pointers are borrowed from the residency manager and stay valid for the whole step. */
typedef struct moeplan_expert {
  const void *w1;     /* gate, [intermediate_size, hidden_size] */
  const void *w3;     /* up,   [intermediate_size, hidden_size] */
  const void *w2;     /* down, [hidden_size, intermediate_size] */
  uint16_t w1_format; /* enum moeplan_format */
  uint16_t w3_format;
  uint16_t w2_format;
  uint16_t on_host; /* 1: in the host's memory, which kernels of a device read over a link */
} moeplan_expert;

/* A token that a sampler may choose. */
typedef struct moeplan_candidate {
  float logit;
  int32_t token; /* -1: none, the vocabulary is smaller */
} moeplan_candidate;

/* How many of the largest logits a device finds for a sampler. */
#define MOEPLAN_CANDIDATES 64

/* Memory of a device that experts kept by the host are fetched to, for one layer. Kernels change
 * what is in it; the rest is the runtime's. */
typedef struct moeplan_expert_slot {
  uint32_t expert;   /* of the layer, that is in it; MOEPLAN_NO_EXPERT: none */
  uint32_t last_use; /* `clock` when it was used last */
} moeplan_expert_slot;

#define MOEPLAN_NO_EXPERT 0xffffffffu
/* Where the linears of an expert begin in a slot: w1, w3, w2 behind each other. */
#define MOEPLAN_SLOT_ALIGNMENT 64

typedef struct moeplan_expert_slots {
  const moeplan_expert *homes; /* [num_experts] where the plan keeps the layer's experts */
  char *memory;                /* [count][slot_bytes], multiples of MOEPLAN_SLOT_ALIGNMENT */
  moeplan_expert_slot *slots;  /* [count] */
  uint64_t *totals;            /* [3] in the host's memory: the last three fields */
  uint64_t slot_bytes;
  uint32_t count;              /* at most num_experts */
  uint32_t keeps;              /* 0: what is fetched is gone when the layer is done */
  uint32_t clock;
  uint32_t blocks_done;        /* of the kernel that runs; 0 between two */
  uint64_t hits, misses;       /* experts on the host that tokens were routed to: in a slot, or not */
  uint64_t miss_bytes;         /* that passed the link for these */
} moeplan_expert_slots;

/* How a synthetic weight comes about (runtime/artifact/synthetic_generator.h): block b of it is copied
 * from the pool at place moeplan_mix(key + b * MOEPLAN_GOLDEN) % places, in units. */
typedef struct moeplan_synthetic_copy {
  const char *pool;
  char *target; /* `bytes`, at a multiple of 16 */
  uint64_t bytes;
  uint64_t key, places;
  uint64_t unit_bytes, block_bytes; /* multiples of 16 */
} moeplan_synthetic_copy;

/* SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). */
#define MOEPLAN_GOLDEN 0x9e3779b97f4a7c15u
static inline MOEPLAN_CONSTEXPR uint64_t moeplan_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* A specialised kernel. Shapes and formats are constants inside it.
 *
 * `bindings` holds one pointer per operand, in the order of the dispatch. The kernel computes tiles
 * `tile_begin` .. `tile_end - 1` of its grid; tiles are independent, so any split over threads
 * gives the same bytes. Reentrant, keeps no state, allocates nothing, calls nothing. */
typedef void (*moeplan_kernel_fn)(void *const *bindings, const moeplan_step *step,
                                  uint64_t tile_begin, uint64_t tile_end);

#ifdef __cplusplus
}
#endif

#endif
