/* Operands: activations in the forms that matrix products read.
 *
 * A matrix product reads activations in the form that suits its weights: float32 beside f32
 * weights, bf16 beside bf16 ones, 8-bit codes beside packed ones. Whatever makes activations for
 * matrix products writes each token as one row that holds the forms its readers need, one behind
 * the other, each from a multiple of 64 bytes:
 *
 *   F32   float32 [columns]
 *   BF16  uint16 [columns], rounded to nearest even; padded with zeros to a multiple of 32 columns
 *   Q8    moeplan_q8_block [columns / 32, rounded up], padded with zeros: x is about scale * code.
 *         scale = max |x| / 127 over MOEPLAN_ACTIVATION_BLOCK columns, code = x / scale to nearest.
 *
 * Included by the micro-kernels and by the compiler, which allocates the rows.
 */
#ifndef MOEPLAN_KERNELS_CPU_OPERAND_H
#define MOEPLAN_KERNELS_CPU_OPERAND_H

#include "kernel_abi.h"

enum moeplan_form { MOEPLAN_FORM_F32 = 1, MOEPLAN_FORM_BF16 = 2, MOEPLAN_FORM_Q8 = 4 };

/* Neighbouring columns that share a scale of 8-bit activations: a multiple of the blocks' 32. */
#ifndef MOEPLAN_ACTIVATION_BLOCK
#define MOEPLAN_ACTIVATION_BLOCK 64
#endif

/* 32 columns. `sum` is scale * the sum of the codes: what the zero of a group multiplies. */
typedef struct moeplan_q8_block {
  int8_t codes[MOEPLAN_BLOCK_COLUMNS];
  float scale;
  float sum;
} moeplan_q8_block;

/* The form that weights of `format` are multiplied with. */
static inline int64_t moeplan_form_of(int64_t format) {
  return format == MOEPLAN_FORMAT_F32    ? MOEPLAN_FORM_F32
         : format == MOEPLAN_FORMAT_BF16 ? MOEPLAN_FORM_BF16
                                         : MOEPLAN_FORM_Q8;
}
/* The forms beside a set of weight formats (bit f: format f). */
static inline int64_t moeplan_forms_of(int64_t formats) {
  return (formats >> MOEPLAN_FORMAT_F32 & 1 ? MOEPLAN_FORM_F32 : 0) |
         (formats >> MOEPLAN_FORMAT_BF16 & 1 ? MOEPLAN_FORM_BF16 : 0) |
         (formats >> MOEPLAN_FORMAT_INT8G32 ? MOEPLAN_FORM_Q8 : 0);
}
/* Bytes of one form of a row. */
static inline int64_t moeplan_form_bytes(int64_t form, int64_t columns) {
  const int64_t blocks = (columns + MOEPLAN_BLOCK_COLUMNS - 1) / MOEPLAN_BLOCK_COLUMNS;
  const int64_t bytes = form == MOEPLAN_FORM_F32 ? columns * 4
                        : form == MOEPLAN_FORM_BF16
                            ? blocks * MOEPLAN_BLOCK_COLUMNS * 2
                            : blocks * (int64_t)sizeof(moeplan_q8_block);
  return (bytes + 63) / 64 * 64;
}
/* Where `form` starts in a row that holds `forms`. */
static inline int64_t moeplan_form_offset(int64_t forms, int64_t form, int64_t columns) {
  int64_t offset = 0;
  if (form > MOEPLAN_FORM_F32 && (forms & MOEPLAN_FORM_F32))
    offset += moeplan_form_bytes(MOEPLAN_FORM_F32, columns);
  if (form > MOEPLAN_FORM_BF16 && (forms & MOEPLAN_FORM_BF16))
    offset += moeplan_form_bytes(MOEPLAN_FORM_BF16, columns);
  return offset;
}
/* Bytes of a row. */
static inline int64_t moeplan_operand_bytes(int64_t forms, int64_t columns) {
  return moeplan_form_offset(forms, MOEPLAN_FORM_Q8, columns) +
         (forms & MOEPLAN_FORM_Q8 ? moeplan_form_bytes(MOEPLAN_FORM_Q8, columns) : 0);
}

#endif
