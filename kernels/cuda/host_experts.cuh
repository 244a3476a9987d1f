// Experts that the host computes while the device computes the others: what it needs of a step is
// written to its memory, and what it made of it is added. The slots of both are divided in between.
#pragma once

#include "elementwise.cuh"

namespace moeplan {

/// Whether any of the `kTop` experts of a token, ids [kTop], is on the host.
template <int kTop>
__device__ inline bool anyOnHost(const moeplan_expert *experts, const uint32_t *ids) {
  bool any = false;
  for (int k = 0; k < kTop; ++k)
    any = any || experts[ids[k]].on_host;
  return any;
}

/// A block of threads is a token: its row, normalised where `normalize`, goes to rows if it has an
/// expert on the host. The first block divides the slots that are sorted by expert into those of
/// experts on the device, here*, and those of experts on the host, there*: both sorted as before,
/// an expert of the other kind having none. rows and there* are in the host's memory.
template <class C>
__device__ void experts_to_host(const moeplan_step *step, Binding<const float> x,
                                Binding<const float> scale, Binding<const moeplan_expert> experts,
                                Binding<const uint32_t> ids, Binding<const uint32_t> expertBegin,
                                Binding<const uint32_t> slotToken, Binding<const float> slotWeight,
                                Binding<float> rows, Binding<uint32_t> hereBegin,
                                Binding<uint32_t> hereToken, Binding<float> hereWeight,
                                Binding<uint32_t> thereBegin, Binding<uint32_t> thereToken,
                                Binding<float> thereWeight) {
  constexpr int kFeatures = C::features, kExperts = C::num_experts;
  const uint32_t token = blockIdx.y;
  if (token >= step->token_count)
    return;
  if (token == 0)
    for (int e = threadIdx.x; e <= kExperts; e += C::threads) {
      uint32_t here = 0, there = 0;
      for (int before = 0; before < e; ++before)
        (experts[before].on_host ? there : here) += expertBegin[before + 1] - expertBegin[before];
      hereBegin[e] = here;
      thereBegin[e] = there;
      if (e == kExperts)
        break;
      const bool onHost = experts[e].on_host;
      for (uint32_t slot = expertBegin[e]; slot < expertBegin[e + 1]; ++slot)
        if (onHost) {
          thereToken[there] = slotToken[slot];
          thereWeight[there++] = slotWeight[slot];
        } else {
          hereToken[here] = slotToken[slot];
          hereWeight[here++] = slotWeight[slot];
        }
    }
  if (!anyOnHost<C::top_k>(experts, ids + token * C::top_k))
    return;
  const float *row = x + int64_t(token) * kFeatures;
  float factor = 1;
  if constexpr (C::normalize != 0)
    factor = normFactor<C>(row);
  for (int i = threadIdx.x; i < kFeatures; i += C::threads)
    rows[int64_t(token) * kFeatures + i] = C::normalize ? row[i] * factor * scale[i] : row[i];
}

/// y[t] += z[t] where token t has an expert on the host; z is in the host's memory.
template <class C>
__device__ void experts_from_host(const moeplan_step *step, Binding<const moeplan_expert> experts,
                                  Binding<const uint32_t> ids, Binding<const float> z,
                                  Binding<float> y) {
  const uint32_t token = blockIdx.y;
  if (token >= step->token_count || !anyOnHost<C::top_k>(experts, ids + token * C::top_k))
    return;
  for (int i = threadIdx.x; i < C::features; i += C::threads)
    y[int64_t(token) * C::features + i] += z[int64_t(token) * C::features + i];
}

} // namespace moeplan
