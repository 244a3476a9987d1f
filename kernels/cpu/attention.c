/* For each block of KEY_BLOCK cache positions: scores s_j = q . k_j / sqrt(head_dim), the running
 * maximum m and its correction c = e^(m_old - m), p_j = e^(s_j - m), then
 *   sum = c sum + sum_j p_j,   out = c out + sum_j p_j v_j
 * and out / sum at the end.
 *
 * The queries of a tile are those of TOKENS tokens for all query heads that share a key head: a
 * block of keys and values is read once for all of them. Blocks begin at multiples of KEY_BLOCK,
 * so that a token's result does not depend on its tile. */
#include "dot.h"
#include "kv_cache.h"

enum { KEY_BLOCK = 64 };

/* What the softmax of one query has come to. */
typedef struct {
  float maximum, sum;
} softmax_state;

/* Scores [KEY_BLOCK] of cache positions block .. to weights; positions outside begin .. end - 1
 * weigh nothing. `score` has room for whole vectors. Returns the correction. */
INLINE float softmax_block(softmax_state *state, float *score, int64_t block, int64_t begin,
                           int64_t end, float scale) {
  const int64_t first = begin > block ? begin - block : 0;
  const int64_t last = end - block < KEY_BLOCK ? end - block : KEY_BLOCK;
  if (first >= last) {
    for (int64_t j = 0; j < KEY_BLOCK; ++j)
      score[j] = 0;
    return 1;
  }
  float maximum = state->maximum;
  for (int64_t j = 0; j < KEY_BLOCK; ++j)
    score[j] = j >= first && j < last ? score[j] * scale : -__builtin_inff();
  for (int64_t j = 0; j < KEY_BLOCK; ++j)
    maximum = score[j] > maximum ? score[j] : maximum;
  const float correction = exp_f32(state->maximum - maximum);
  vfloat sum = {0};
  for (int64_t j = 0; j < KEY_BLOCK; j += MOEPLAN_LANES) {
    const vfloat p = exp_vector(load_f32(score + j) - maximum);
    store_f32(score + j, p);
    sum += p;
  }
  state->maximum = maximum;
  state->sum = state->sum * correction + sum_lanes(sum);
  return correction;
}

/* What the queries of a tile share. */
typedef struct {
  const char *keys, *values;
  int64_t head_dim, kv_capacity, kv_format;
  float scale;
} cache_view;

/* `words` times rows 0 .. count - 1 of `x`, of `stride` words each: the body runs with
 * out[t][LANES] for rows `row` + t, of which the first `live` are wanted. */
#define PAIR_ROWS(count, words, pairs, x, stride, ...)                                             \
  do {                                                                                             \
    int64_t row = 0;                                                                               \
    ROLLED for (; count - row > TOKEN_TILE / 2; row += TOKEN_TILE)                                 \
        PAIR_TILE(TOKEN_TILE, count, words, pairs, x, stride, __VA_ARGS__);                        \
    ROLLED for (; row < count; row += TOKEN_TILE / 2)                                              \
        PAIR_TILE(TOKEN_TILE / 2, count, words, pairs, x, stride, __VA_ARGS__);                    \
  } while (0)

#define PAIR_TILE(tile, count, words, pairs, x, stride, ...)                                       \
  do {                                                                                             \
    enum { tokens = tile };                                                                        \
    const int live = count - row < tokens ? (int)(count - row) : (int)tokens;                      \
    const uint32_t *rows_of_x[tokens];                                                             \
    float out[tokens * MOEPLAN_LANES];                                                             \
    UNROLL for (int t = 0; t < tokens; ++t) rows_of_x[t] =                                         \
        x + (row + (t < live ? t : live - 1)) * stride;                                            \
    pair_dot(words, pairs, rows_of_x, tokens, 0, 2, out);                                          \
    __VA_ARGS__                                                                                    \
  } while (0)

/* x [count] as two rows of bf16 whose sum is x to 16 bits, each padded with zeros to `padded`: what
 * is not stored in the cache is not rounded to its precision. */
INLINE void split_bf16(const float *x, int64_t count, int64_t padded, uint32_t *rows) {
  uint16_t *high = (uint16_t *)rows, *low = (uint16_t *)(rows + padded / 2);
  for (int64_t i = 0; i < count; ++i) {
    high[i] = f32_to_bf16(x[i]);
    low[i] = f32_to_bf16(x[i] - bf16_to_f32(high[i]));
  }
  for (int64_t i = count; i < padded; ++i)
    high[i] = low[i] = 0;
}

/* Queries [count][head_dim], each over cache positions begin[q] .. end[q] - 1, a BF16 cache.
 * out [count][head_dim]. At most `most` queries, a constant. */
INLINE void attend_bf16(const cache_view *cache, const float *const *queries, const int64_t *begin,
                        const int64_t *end, int64_t count, const int64_t most, float *const *out) {
  const int64_t dim = padded_dim(cache->head_dim), dim_words = dim / 2;
  /* Rows 2 q and 2 q + 1 are the two of query q. */
  uint32_t query[2 * most * dim_words];
  uint32_t weight[2 * most * (KEY_BLOCK / 2)];
  float score[most * KEY_BLOCK], sum[most * dim], correction[most];
  softmax_state state[most];
  int64_t first = begin[0], last = 0;
  for (int64_t q = 0; q < count; ++q) {
    split_bf16(queries[q], cache->head_dim, dim, query + 2 * q * dim_words);
    for (int64_t i = 0; i < dim; ++i)
      sum[q * dim + i] = 0;
    state[q].maximum = -__builtin_inff();
    state[q].sum = 0;
    first = begin[q] < first ? begin[q] : first;
    last = end[q] > last ? end[q] : last;
  }
  ROLLED for (int64_t block = first / KEY_BLOCK * KEY_BLOCK; block < last; block += KEY_BLOCK) {
    const int64_t keys = last - block < KEY_BLOCK ? last - block : KEY_BLOCK;
    ROLLED for (int64_t j = 0; j < keys; j += MOEPLAN_LANES) {
      const uint32_t *words =
          (const uint32_t *)cache->keys + (block + j) / 16 * dim_words * 16 + (block + j) % 16;
      PAIR_ROWS(2 * count, words, dim_words, query, dim_words, {
        for (int t = 0; t < live; ++t) {
          float *target = score + (row + t) / 2 * KEY_BLOCK + j;
          const vfloat part = load_f32(out + t * MOEPLAN_LANES);
          store_f32(target, (row + t) % 2 ? load_f32(target) + part : part);
        }
      });
    }
    for (int64_t q = 0; q < count; ++q) {
      correction[q] =
          softmax_block(&state[q], score + q * KEY_BLOCK, block, begin[q], end[q], cache->scale);
      split_bf16(score + q * KEY_BLOCK, KEY_BLOCK, KEY_BLOCK, weight + q * KEY_BLOCK);
    }
    const int64_t pairs = MOEPLAN_PAIRS(keys);
    ROLLED for (int64_t i = 0; i < dim; i += MOEPLAN_LANES) {
      const uint32_t *words = (const uint32_t *)cache->values +
                              (i / 16 * (cache->kv_capacity / 2) + block / 2) * 16 + i % 16;
      PAIR_ROWS(2 * count, words, pairs, weight, (KEY_BLOCK / 2), {
        for (int t = 0; t < live; ++t) {
          const int64_t q = (row + t) / 2;
          float *target = sum + q * dim + i;
          const vfloat before = load_f32(target);
          store_f32(target, ((row + t) % 2 ? before : before * correction[q]) +
                                load_f32(out + t * MOEPLAN_LANES));
        }
      });
    }
  }
  for (int64_t q = 0; q < count; ++q)
    for (int64_t i = 0; i < cache->head_dim; ++i)
      out[q][i] = sum[q * dim + i] / state[q].sum;
}

/* LANES elements of a row of an F32 or INT8 cache, without its scale. */
INLINE vfloat load_kv(int64_t kv_format, const char *row, int64_t i) {
  typedef int8_t vsbyte __attribute__((vector_size(MOEPLAN_LANES)));
  typedef int8_t vsbyte_mem __attribute__((vector_size(MOEPLAN_LANES), aligned(1), may_alias));
  return kv_format == MOEPLAN_KV_INT8
             ? __builtin_convertvector(
                   __builtin_convertvector((vsbyte) * (const vsbyte_mem *)(row + i), vint), vfloat)
             : load_f32((const float *)row + i);
}
INLINE float load_kv_element(int64_t kv_format, const char *row, int64_t i) {
  return kv_format == MOEPLAN_KV_INT8 ? (float)((const int8_t *)row)[i] : ((const float *)row)[i];
}
INLINE float kv_scale(int64_t kv_format, const char *row, int64_t head_dim) {
  return kv_format == MOEPLAN_KV_INT8 ? *(const float *)(row + (head_dim + 3) / 4 * 4) : 1.0f;
}

/* One query over a cache whose positions are rows. */
INLINE void attend_rows(const cache_view *cache, const float *query, int64_t begin, int64_t end,
                        float *out) {
  const int64_t head_dim = cache->head_dim, format = cache->kv_format;
  const int64_t bytes = moeplan_kv_row_bytes((unsigned)format, (unsigned)head_dim);
  softmax_state state = {-__builtin_inff(), 0};
  for (int64_t i = 0; i < head_dim; ++i)
    out[i] = 0;
  ROLLED for (int64_t block = begin / KEY_BLOCK * KEY_BLOCK; block < end; block += KEY_BLOCK) {
    const int64_t first = begin > block ? begin - block : 0;
    const int64_t last = end - block < KEY_BLOCK ? end - block : KEY_BLOCK;
    float p[KEY_BLOCK];
    ROLLED for (int64_t j = first; j < last; ++j) {
      const char *row = cache->keys + (block + j) * bytes;
      vfloat products = {0};
      int64_t i = 0;
      for (; i + MOEPLAN_LANES <= head_dim; i += MOEPLAN_LANES)
        products += load_f32(query + i) * load_kv(format, row, i);
      float score = sum_lanes(products);
      for (; i < head_dim; ++i)
        score += query[i] * load_kv_element(format, row, i);
      p[j] = score * kv_scale(format, row, head_dim);
    }
    const float correction = softmax_block(&state, p, block, begin, end, cache->scale);
    if (format == MOEPLAN_KV_INT8)
      for (int64_t j = first; j < last; ++j)
        p[j] *= kv_scale(format, cache->values + (block + j) * bytes, head_dim);
    int64_t i = 0;
    ROLLED for (; i + MOEPLAN_LANES <= head_dim; i += MOEPLAN_LANES) {
      vfloat accumulator = load_f32(out + i) * correction;
      for (int64_t j = first; j < last; ++j)
        accumulator += load_kv(format, cache->values + (block + j) * bytes, i) * p[j];
      store_f32(out + i, accumulator);
    }
    ROLLED for (; i < head_dim; ++i) {
      out[i] *= correction;
      for (int64_t j = first; j < last; ++j)
        out[i] += load_kv_element(format, cache->values + (block + j) * bytes, i) * p[j];
    }
  }
  for (int64_t i = 0; i < head_dim; ++i)
    out[i] /= state.sum;
}

INLINE void attend(const cache_view *cache, const float *const *queries, const int64_t *begin,
                   const int64_t *end, int64_t count, const int64_t most, float *const *out) {
  if (cache->kv_format == MOEPLAN_KV_BF16) {
    attend_bf16(cache, queries, begin, end, count, most, out);
    return;
  }
  for (int64_t q = 0; q < count; ++q)
    attend_rows(cache, queries[q], begin[q], end[q], out[q]);
}

INLINE int64_t window_begin(int64_t end, int64_t sliding_window) {
  return sliding_window && end > sliding_window ? end - sliding_window : 0;
}

void moeplan_cpu_attention(MOEPLAN_TILE_RANGE, const float *restrict q, const void *restrict keys,
                           const void *restrict values, float *restrict out, int64_t num_heads,
                           int64_t num_kv_heads, int64_t head_dim, int64_t kv_format,
                           int64_t sliding_window, int64_t tokens_per_tile, int64_t logits_rows) {
  const int64_t group = num_heads / num_kv_heads, most = group * tokens_per_tile;
  const int64_t wanted = logits_rows ? step->logits_begin : 0;
  for (uint64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t kv_head_index = tile % num_kv_heads;
    const int64_t block = tile / num_kv_heads * tokens_per_tile;
    const int64_t token_begin = block < wanted ? wanted : block;
    const int64_t token_end =
        block + tokens_per_tile < step->token_count ? block + tokens_per_tile : step->token_count;
    if (token_begin >= token_end)
      continue;
    const float *queries[most];
    float *targets[most];
    int64_t begin[most], end[most], count = 0;
    for (int64_t token = token_begin; token < token_end; ++token)
      for (int64_t g = 0; g < group; ++g, ++count) {
        const int64_t head = token * num_heads + kv_head_index * group + g;
        queries[count] = q + head * head_dim;
        targets[count] = out + head * head_dim;
        end[count] = step->position + token + 1;
        begin[count] = window_begin(end[count], sliding_window);
      }
    const int64_t capacity = step->kv_capacity;
    const cache_view cache = {kv_head((void *)keys, kv_head_index, capacity, head_dim, kv_format),
                              kv_head((void *)values, kv_head_index, capacity, head_dim, kv_format),
                              head_dim,
                              capacity,
                              kv_format,
                              1.0f / __builtin_sqrtf((float)head_dim)};
    attend(&cache, queries, begin, end, count, most, targets);
  }
}

void moeplan_cpu_vector_attention(MOEPLAN_TILE_RANGE, const float *restrict q,
                                  const float *restrict k, const float *restrict v,
                                  const float *restrict rope, void *restrict keys,
                                  void *restrict values, float *restrict out, int64_t num_heads,
                                  int64_t num_kv_heads, int64_t head_dim, int64_t kv_format,
                                  int64_t sliding_window, int64_t logits_rows) {
  const int64_t group = num_heads / num_kv_heads;
  for (uint64_t head = tile_begin; head < tile_end; ++head) {
    const int64_t capacity = step->kv_capacity;
    char *head_keys = kv_head(keys, head, capacity, head_dim, kv_format);
    char *head_values = kv_head(values, head, capacity, head_dim, kv_format);
    float key[head_dim], query[group * head_dim];
    rotate(k + head * head_dim, rope, key, head_dim);
    store_kv(head_keys, head_values, step->position, key, v + head * head_dim, head_dim, capacity,
             kv_format);
    clear_behind(head_values, step->position, head_dim, capacity, kv_format);
    if (logits_rows && step->logits_begin)
      continue;
    const float *queries[group];
    float *targets[group];
    int64_t begin[group], end[group];
    for (int64_t g = 0; g < group; ++g) {
      const int64_t at = ((int64_t)head * group + g) * head_dim;
      rotate(q + at, rope, query + g * head_dim, head_dim);
      queries[g] = query + g * head_dim;
      targets[g] = out + at;
      end[g] = step->position + 1;
      begin[g] = window_begin(end[g], sliding_window);
    }
    const cache_view cache = {head_keys, head_values, head_dim,
                              capacity,  kv_format,   1.0f / __builtin_sqrtf((float)head_dim)};
    attend(&cache, queries, begin, end, group, group, targets);
  }
}
