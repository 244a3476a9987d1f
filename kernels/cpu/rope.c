#include "kv_cache.h"

/* e^x in double: as exp_f32, with Taylor's series to degree 13 (remainder 1e-17 relative). */
INLINE double exp_f64(double x) {
  const double shifted = x * 1.4426950408889634;
  const int64_t n = (int64_t)(shifted + (shifted < 0 ? -0.5 : 0.5));
  const double r = x - n * 0.6931471803691238 - n * 1.9082149292705877e-10;
  double p = 1.0;
  _Pragma("clang loop unroll(full)") for (int i = 13; i > 0; --i) p = 1.0 + p * r / i;
  const uint64_t bits = (uint64_t)(n + 1023) << 52;
  double scale;
  __builtin_memcpy(&scale, &bits, 8);
  return p * scale;
}

/* sin and cos of a >= 0: a = quadrant * pi/2 + r with |r| <= pi/4 and pi/2 in two parts, Taylor's
 * series to r^16 (remainder 1e-16). */
INLINE void sin_cos(double a, double *sine, double *cosine) {
  const int64_t quadrant = (int64_t)(a * 0.6366197723675814 + 0.5);
  const double r = a - quadrant * 1.5707963267341256 - quadrant * 6.077100506506192e-11;
  const double r2 = r * r;
  double s = 1.0, c = 1.0;
  _Pragma("clang loop unroll(full)") for (int i = 8; i > 0; --i) {
    s = 1.0 - s * r2 / (2 * i * (2 * i + 1));
    c = 1.0 - c * r2 / (2 * i * (2 * i - 1));
  }
  s *= r;
  switch (quadrant & 3) {
  case 0:
    *sine = s, *cosine = c;
    break;
  case 1:
    *sine = c, *cosine = -s;
    break;
  case 2:
    *sine = -s, *cosine = -c;
    break;
  default:
    *sine = -c, *cosine = s;
    break;
  }
}

void moeplan_cpu_rope_table(MOEPLAN_TILE_RANGE, float *restrict rope, int64_t head_dim,
                            double log_theta) {
  const int64_t pairs = head_dim / 2;
  for (uint64_t token = tile_begin; token < tile_end; ++token) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float frequency = (float)exp_f64(-log_theta * (double)(2 * i) / (double)head_dim);
      const float angle = (float)(step->position + token) * frequency;
      double sine, cosine;
      sin_cos(angle, &sine, &cosine);
      rope[(token * pairs + i) * 2] = (float)cosine;
      rope[(token * pairs + i) * 2 + 1] = (float)sine;
    }
  }
}

void moeplan_cpu_rope_append(MOEPLAN_TILE_RANGE, float *restrict q, const float *restrict k,
                             const float *restrict v, const float *restrict rope,
                             void *restrict keys, void *restrict values, int64_t num_heads,
                             int64_t num_kv_heads, int64_t head_dim, int64_t kv_format) {
  const int64_t capacity = step->kv_capacity;
  for (uint64_t token = tile_begin; token < tile_end; ++token) {
    const float *table = rope + token * head_dim;
    float rotated[head_dim];
    for (int64_t head = 0; head < num_heads; ++head) {
      float *vector = q + (token * num_heads + head) * head_dim;
      rotate(vector, table, rotated, head_dim);
      for (int64_t i = 0; i < head_dim; ++i)
        vector[i] = rotated[i];
    }
    const int64_t position = step->position + token;
    for (int64_t head = 0; head < num_kv_heads; ++head) {
      const int64_t source = (token * num_kv_heads + head) * head_dim;
      char *head_keys = kv_head(keys, head, capacity, head_dim, kv_format);
      char *head_values = kv_head(values, head, capacity, head_dim, kv_format);
      rotate(k + source, table, rotated, head_dim);
      store_kv(head_keys, head_values, position, rotated, v + source, head_dim, capacity,
               kv_format);
      if (token + 1 == step->token_count)
        clear_behind(head_values, position, head_dim, capacity, kv_format);
    }
  }
}
