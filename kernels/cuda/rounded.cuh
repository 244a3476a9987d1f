// Rows of activations as the matrix products of prompts read them: bf16, padded with zeros to whole
// blocks of 32 columns, and of each four columns first 0 and 2, then 1 and 3, which is how codes
// leave their bytes (weights.cuh).
#pragma once

#include "device.cuh"

namespace moeplan {

/// Elements of a row of `columns` activations.
constexpr int roundedColumns(int columns) {
  return (columns + MOEPLAN_BLOCK_COLUMNS - 1) / MOEPLAN_BLOCK_COLUMNS * MOEPLAN_BLOCK_COLUMNS;
}

struct alignas(8) RoundedFour {
  uint32_t even, odd;
};

/// Four neighbouring columns, the first a multiple of 4, to their place in a row.
__device__ inline void storeRounded(uint16_t *place, const float (&x)[4]) {
  *(RoundedFour *)place = {toBf16Pair(x[0], x[2]), toBf16Pair(x[1], x[3])};
}

} // namespace moeplan
