/* The CPU micro-kernels: one prototype each, for the kernel and for its scalar reference.
 *
 * A micro-kernel is generic C. The compiler turns it into machine code for one shape by calling it
 * with constants from a generated wrapper of type moeplan_kernel_fn and inlining (see
 * compiler/codegen). The parameter list is the declaration the compiler reads:
 *
 *   step, tile_begin, tile_end   as in moeplan_kernel_fn
 *   pointers                     the bindings of a dispatch, in this order
 *   int64_t and double           the constants, matched by parameter name
 *
 * Matrices are row-major. T is step->token_count, rows of activations are float32. A constant
 * `max_tokens` of 1 promises T = 1. A weight of a format is [rows, columns], see kernel_abi.h.
 * `X_reference` has the same parameters, computes the same thing in plain scalar C with double
 * accumulators, and is the oracle of the kernel's tests.
 */
#ifndef MOEPLAN_KERNELS_CPU_KERNELS_H
#define MOEPLAN_KERNELS_CPU_KERNELS_H

#include "kernel_abi.h"
#include "operand.h"

#ifdef __cplusplus
extern "C" {
#define MOEPLAN_RESTRICT __restrict__
#else
#define MOEPLAN_RESTRICT restrict
#endif

#define MOEPLAN_TILE_RANGE const moeplan_step *step, uint64_t tile_begin, uint64_t tile_end

#define MOEPLAN_CPU_KERNEL(name, ...)                                                              \
  void moeplan_cpu_##name(__VA_ARGS__);                                                            \
  void moeplan_cpu_##name##_reference(__VA_ARGS__);

/* out[t, :] = table[tokens[t], :]; table [vocab_size, features], tokens int32 [T] within it. A tile
 * is a token. */
MOEPLAN_CPU_KERNEL(embedding, MOEPLAN_TILE_RANGE, const int32_t *MOEPLAN_RESTRICT tokens,
                   const void *MOEPLAN_RESTRICT table, float *MOEPLAN_RESTRICT out,
                   int64_t features, int64_t vocab_size, int64_t weight_format)

/* out[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + epsilon) * weight (Zhang and Sennrich, arXiv
 * 1910.07467). weight float32 [features]. With `logits_rows`, only rows from step->logits_begin on.
 * A tile is a token. */
MOEPLAN_CPU_KERNEL(rms_norm, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT x,
                   const float *MOEPLAN_RESTRICT weight, float *MOEPLAN_RESTRICT out,
                   int64_t features, double epsilon, int64_t logits_rows)

/* Makes operands of rows of x float32 [T, features]: of x[t, :] itself or, where `normalize`, of
 * rms_norm(x[t, :]) with `scale` float32 [features]; else scale is not read. operand [T] rows of
 * the `forms` of `features` columns (operand.h). With `logits_rows`, only rows from
 * step->logits_begin on. A tile is a token. */
MOEPLAN_CPU_KERNEL(operand, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT x,
                   const float *MOEPLAN_RESTRICT scale, void *MOEPLAN_RESTRICT operand,
                   int64_t features, int64_t normalize, double epsilon, int64_t forms,
                   int64_t logits_rows)

/* y[t, n] = sum_k x[t, k] * w[n, k], added to y where `accumulate`; x an operand of `x_forms`.
 * With `logits_rows`, only rows from step->logits_begin on. A tile is `rows_per_tile` rows of w: a
 * multiple of 16 or all, where w is not f32. `prefetch` is how many bytes ahead of their use
 * weights are fetched, 0: not at all; `unroll` how many stretches of columns (see packed.h) a turn
 * of the innermost loop takes. */
MOEPLAN_CPU_KERNEL(linear, MOEPLAN_TILE_RANGE, const void *MOEPLAN_RESTRICT x,
                   const void *MOEPLAN_RESTRICT w, float *MOEPLAN_RESTRICT y, int64_t in_features,
                   int64_t out_features, int64_t weight_format, int64_t x_forms,
                   int64_t rows_per_tile, int64_t accumulate, int64_t logits_rows, int64_t prefetch,
                   int64_t unroll)

/* The same for T = 1 and x float32 [in_features], which each call makes an operand of first, as
 * kernel `operand` does: a barrier less. */
MOEPLAN_CPU_KERNEL(vector_linear, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT x,
                   const float *MOEPLAN_RESTRICT scale, const void *MOEPLAN_RESTRICT w,
                   float *MOEPLAN_RESTRICT y, int64_t in_features, int64_t out_features,
                   int64_t normalize, double epsilon, int64_t weight_format, int64_t rows_per_tile,
                   int64_t accumulate, int64_t logits_rows, int64_t prefetch, int64_t unroll)

/* Norm and the three projections of attention for T = 1: q = wq x [q_features], k = wk x and
 * v = wv x [kv_features], all weights of `weight_format`. The tiles are those of q, then k, then v,
 * each `rows_per_tile` rows. */
MOEPLAN_CPU_KERNEL(vector_qkv, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT x,
                   const float *MOEPLAN_RESTRICT scale, const void *MOEPLAN_RESTRICT wq,
                   const void *MOEPLAN_RESTRICT wk, const void *MOEPLAN_RESTRICT wv,
                   float *MOEPLAN_RESTRICT q, float *MOEPLAN_RESTRICT k, float *MOEPLAN_RESTRICT v,
                   int64_t in_features, int64_t q_features, int64_t kv_features, int64_t normalize,
                   double epsilon, int64_t weight_format, int64_t rows_per_tile, int64_t prefetch,
                   int64_t unroll)

/* rope[t, i] = (cos a, sin a) with a = (position + t) * theta^(-2 i / head_dim), both factors
 * rounded to float32 as Hugging Face does; rope float32 [T, head_dim / 2, 2]. `log_theta` is
 * ln(theta). A tile is a token. */
MOEPLAN_CPU_KERNEL(rope_table, MOEPLAN_TILE_RANGE, float *MOEPLAN_RESTRICT rope, int64_t head_dim,
                   double log_theta)

/* Rotates q [T, num_heads, head_dim] in place and k [T, num_kv_heads, head_dim] on its way into the
 * cache (Su et al., arXiv 2104.09864, the half-split form: element i pairs with i + head_dim / 2);
 * v goes into the cache as it is. keys, values: the caches of the layer in `kv_format`
 * (kv_cache.h). A tile is a token. */
MOEPLAN_CPU_KERNEL(rope_append, MOEPLAN_TILE_RANGE, float *MOEPLAN_RESTRICT q,
                   const float *MOEPLAN_RESTRICT k, const float *MOEPLAN_RESTRICT v,
                   const float *MOEPLAN_RESTRICT rope, void *MOEPLAN_RESTRICT keys,
                   void *MOEPLAN_RESTRICT values, int64_t num_heads, int64_t num_kv_heads,
                   int64_t head_dim, int64_t kv_format)

/* out[t, h] = softmax(q[t, h] . K / sqrt(head_dim)) V over cache positions 0 .. position + t, or
 * the last `sliding_window` (> 0) of them; one pass with a running maximum (Milakov and Gimelshein,
 * arXiv 1805.02867). Query heads h share key/value head h / (num_heads / num_kv_heads).
 * q, out [T, num_heads, head_dim]. With `logits_rows`, only tokens from step->logits_begin on. A
 * tile is `tokens_per_tile` tokens of one key/value head, heads first; tiles behind the last token
 * are empty. */
MOEPLAN_CPU_KERNEL(attention, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT q,
                   const void *MOEPLAN_RESTRICT keys, const void *MOEPLAN_RESTRICT values,
                   float *MOEPLAN_RESTRICT out, int64_t num_heads, int64_t num_kv_heads,
                   int64_t head_dim, int64_t kv_format, int64_t sliding_window,
                   int64_t tokens_per_tile, int64_t logits_rows)

/* rope_append and attention for T = 1, with q left as it is. A tile is one key/value head. */
MOEPLAN_CPU_KERNEL(vector_attention, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT q,
                   const float *MOEPLAN_RESTRICT k, const float *MOEPLAN_RESTRICT v,
                   const float *MOEPLAN_RESTRICT rope, void *MOEPLAN_RESTRICT keys,
                   void *MOEPLAN_RESTRICT values, float *MOEPLAN_RESTRICT out, int64_t num_heads,
                   int64_t num_kv_heads, int64_t head_dim, int64_t kv_format,
                   int64_t sliding_window, int64_t logits_rows)

/* Norm, router and the operand of the experts. Normalises x [T, features] where `normalize`, as
 * kernel `operand` does, scores the result against gate float32 [num_experts, features], picks the
 * `top_k` largest (lowest index on a tie) and softmaxes over them: ids int32 [T, top_k], weights
 * float32 [T, top_k]. ids are in range whatever x holds, NaN included. operand [T] rows of the
 * `forms` of the result; none where forms is 0. With `logits_rows`, only tokens from
 * step->logits_begin on. A tile is a token. */
MOEPLAN_CPU_KERNEL(router, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT x,
                   const float *MOEPLAN_RESTRICT scale, const float *MOEPLAN_RESTRICT gate,
                   int32_t *MOEPLAN_RESTRICT ids, float *MOEPLAN_RESTRICT weights,
                   void *MOEPLAN_RESTRICT operand, int64_t features, int64_t num_experts,
                   int64_t top_k, int64_t normalize, double epsilon, int64_t forms,
                   int64_t logits_rows)

/* Sorts the T * top_k (token, expert) pairs by expert, stably. The slots of expert e are
 * expert_begin[e] .. expert_begin[e + 1] - 1; slot s belongs to token slot_token[s] and weighs
 * slot_weight[s]. expert_begin uint32 [num_experts + 1]. With `logits_rows`, only pairs of tokens
 * from step->logits_begin on. One tile. */
MOEPLAN_CPU_KERNEL(group_by_expert, MOEPLAN_TILE_RANGE, const int32_t *MOEPLAN_RESTRICT ids,
                   const float *MOEPLAN_RESTRICT weights, uint32_t *MOEPLAN_RESTRICT expert_begin,
                   uint32_t *MOEPLAN_RESTRICT slot_token, float *MOEPLAN_RESTRICT slot_weight,
                   int64_t num_experts, int64_t top_k, int64_t logits_rows)

/* router and group_by_expert for T = 1. One tile. */
MOEPLAN_CPU_KERNEL(vector_router, MOEPLAN_TILE_RANGE, const float *MOEPLAN_RESTRICT x,
                   const float *MOEPLAN_RESTRICT scale, const float *MOEPLAN_RESTRICT gate,
                   uint32_t *MOEPLAN_RESTRICT expert_begin, uint32_t *MOEPLAN_RESTRICT slot_token,
                   float *MOEPLAN_RESTRICT slot_weight, void *MOEPLAN_RESTRICT operand,
                   int64_t features, int64_t num_experts, int64_t top_k, int64_t normalize,
                   double epsilon, int64_t forms, int64_t logits_rows)

/* h[s, n] = silu(w1[n] . x[slot_token[s]]) * (w3[n] . x[slot_token[s]]) for every slot s, with the
 * weights of the slot's expert; x [T] operands of `x_forms`, h [T * top_k] operands of `h_forms`.
 * `formats` is the set (bit f: format f) that occurs in the plan: an expert is read in the format
 * its table row names. A tile is `rows_per_tile` rows of every routed expert: a multiple of 128 or
 * all. A `max_tokens` of 1 promises T = 1. */
MOEPLAN_CPU_KERNEL(experts_gate_up, MOEPLAN_TILE_RANGE, const void *MOEPLAN_RESTRICT x,
                   const moeplan_expert *MOEPLAN_RESTRICT experts,
                   const uint32_t *MOEPLAN_RESTRICT expert_begin,
                   const uint32_t *MOEPLAN_RESTRICT slot_token, void *MOEPLAN_RESTRICT h,
                   int64_t features, int64_t intermediate, int64_t num_experts, int64_t formats,
                   int64_t x_forms, int64_t h_forms, int64_t rows_per_tile, int64_t max_tokens,
                   int64_t prefetch, int64_t unroll)

/* y[slot_token[s], n] += slot_weight[s] * (w2[n] . h[s]) over all slots s in order; h [T * top_k]
 * operands of `h_forms`; y float32 [T, features] holds the residual, or is cleared first unless
 * `accumulate`. A tile is `rows_per_tile` rows: where the set has a format in tiles, a multiple of
 * 16 or all. */
MOEPLAN_CPU_KERNEL(experts_down, MOEPLAN_TILE_RANGE, const void *MOEPLAN_RESTRICT h,
                   const moeplan_expert *MOEPLAN_RESTRICT experts,
                   const uint32_t *MOEPLAN_RESTRICT expert_begin,
                   const uint32_t *MOEPLAN_RESTRICT slot_token,
                   const float *MOEPLAN_RESTRICT slot_weight, float *MOEPLAN_RESTRICT y,
                   int64_t features, int64_t intermediate, int64_t num_experts, int64_t formats,
                   int64_t h_forms, int64_t rows_per_tile, int64_t accumulate, int64_t max_tokens,
                   int64_t prefetch, int64_t unroll)

/* y = x + z, elementwise [T, features]: the residual where nothing fused it. A tile is a token. */
MOEPLAN_CPU_KERNEL(add, MOEPLAN_TILE_RANGE, const float *x, const float *z, float *y,
                   int64_t features)

#ifdef __cplusplus
}
#endif

#endif
