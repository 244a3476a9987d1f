#include "dot.h"

void moeplan_cpu_linear(MOEPLAN_TILE_RANGE, const float *restrict x, const void *restrict w,
                        float *restrict y, int64_t in_features, int64_t out_features,
                        int64_t format, int64_t rows_per_tile, int64_t accumulate,
                        int64_t max_tokens, int64_t logits_rows) {
  const int64_t token_begin = logits_rows ? step->logits_begin : 0;
  const int64_t token_end = max_tokens == 1 ? 1 : step->token_count;
  int64_t row = tile_begin * rows_per_tile;
  const int64_t end = tile_end * rows_per_tile;
  const int64_t row_end = end < out_features ? end : out_features;

#define BLOCK                                                                                      \
  {                                                                                                \
    const float *rows_of_x[4];                                                                     \
    float out[tokens * rows];                                                                      \
    UNROLL for (int t = 0; t < tokens; ++t) rows_of_x[t] = x + (token + t) * in_features;          \
    dot_tile(format, rows_of_x, w, row, in_features, tokens, rows, out);                           \
    UNROLL for (int t = 0; t < tokens; ++t) UNROLL for (int r = 0; r < rows; ++r) {                \
      float *target = y + (token + t) * out_features + row + r;                                    \
      *target = accumulate ? *target + out[t * rows + r] : out[t * rows + r];                      \
    }                                                                                              \
  }

  if (max_tokens == 1) {
    const int64_t token = 0;
    enum { tokens = 1 };
    if (token_begin < token_end)
      FOR_ROW_BLOCKS(row, row_end, ROW_TILE_SINGLE, BLOCK);
  } else {
    FOR_ROW_BLOCKS(row, row_end, ROW_TILE, {
      int64_t token = token_begin;
      FOR_TOKEN_BLOCKS(token, token_end, BLOCK);
    });
  }
#undef BLOCK
}
