#include "dot.h"

void moeplan_cpu_linear(MOEPLAN_TILE_RANGE, const float *restrict x, const void *restrict w,
                        float *restrict y, int64_t in_features, int64_t out_features,
                        int64_t weight_format, int64_t rows_per_tile, int64_t accumulate,
                        int64_t max_tokens, int64_t logits_rows) {
  const int64_t token_begin = logits_rows ? step->logits_begin : 0;
  const int64_t token_end = max_tokens == 1 ? token_begin + (token_begin == 0) : step->token_count;
  const int64_t row_begin = tile_begin * rows_per_tile;
  const int64_t end = tile_end * rows_per_tile;
  const int64_t row_end = end < out_features ? end : out_features;
  WITH_FORMAT(1 << weight_format, weight_format, {
    FOR_BLOCKS(token_begin, token_end, row_begin, row_end, {
      const float *rows_of_x[4];
      float out[tokens * rows];
      UNROLL for (int t = 0; t < tokens; ++t) rows_of_x[t] = x + (token + t) * in_features;
      DOT_TILE(rows_of_x, w, out_features, row, in_features, tokens, rows, out);
      UNROLL for (int t = 0; t < tokens; ++t) for (int r = 0; r < valid; ++r) {
        float *target = y + (token + t) * out_features + row + r;
        *target = accumulate ? *target + out[t * rows + r] : out[t * rows + r];
      }
    });
  });
}
