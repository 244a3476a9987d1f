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
extern "C" {
#endif

#define MOEPLAN_KERNEL_ABI_VERSION 1u

/* Every kernel library exports a `const uint32_t` of this name with the ABI version. */
#define MOEPLAN_KERNEL_ABI_SYMBOL "moeplan_kernel_abi_version"

/* How the numbers of a weight are stored. Same values as `Format` in moeplan.fbs; what each means
 * (bits, bytes of a row) is in formats.h. */
enum moeplan_format {
  MOEPLAN_FORMAT_NONE = 0,
  MOEPLAN_FORMAT_F32 = 1,
  MOEPLAN_FORMAT_BF16 = 2,
};

/* What differs from one execution of a program to the next. */
typedef struct moeplan_step {
  uint32_t token_count;  /* live tokens (rows) of this execution, 1 .. the program's max_tokens */
  uint32_t logits_begin; /* first row whose logits are wanted, 0 .. token_count (= none) */
  uint64_t position;     /* position in the KV cache of token 0 */
  uint64_t kv_capacity;  /* positions the KV cache has room for */
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
  uint16_t reserved;
} moeplan_expert;

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
