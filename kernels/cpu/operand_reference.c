#include "reference.h"

#include <stdlib.h>

void moeplan_cpu_operand_reference(MOEPLAN_TILE_RANGE, const float *restrict x,
                                   const float *restrict scale, void *restrict operand,
                                   int64_t features, int64_t normalize, double epsilon,
                                   int64_t forms, int64_t logits_rows) {
  float *row = malloc((size_t)features * 4);
  for (uint64_t t = tile_begin; t < tile_end; ++t) {
    if (logits_rows && t < step->logits_begin)
      continue;
    memcpy(row, x + t * features, (size_t)features * 4);
    if (normalize)
      reference_normalize(x + t * features, scale, row, features, epsilon);
    reference_store_operand(reference_operand_row(operand, (int64_t)t, forms, features), forms,
                            features, 0, features, row);
  }
  free(row);
}
