// Synthetic weights, made where they are read.
#pragma once

#include "device.cuh"

namespace moeplan {

/// The bytes of one weight, as runtime/artifact/synthetic_generator makes them on a CPU. Any number
/// of blocks of threads share its blocks of bytes.
template <class C>
__device__ void generate_weight(const moeplan_step *, Binding<const moeplan_synthetic_copy> copy) {
  const moeplan_synthetic_copy job = *copy;
  for (uint64_t block = blockIdx.x; block * job.block_bytes < job.bytes; block += gridDim.x) {
    const uint64_t begin = block * job.block_bytes, left = job.bytes - begin;
    const uint64_t place =
        moeplan_mix(job.key + block * MOEPLAN_GOLDEN) % job.places * job.unit_bytes;
    const uint64_t bytes = left < job.block_bytes ? left : job.block_bytes;
    const char *from = job.pool + place;
    char *to = job.target + begin;
    for (uint64_t i = threadIdx.x; i < bytes / sizeof(uint4); i += C::threads)
      ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    for (uint64_t i = bytes / sizeof(uint4) * sizeof(uint4) + threadIdx.x; i < bytes;
         i += C::threads)
      to[i] = from[i];
  }
}

} // namespace moeplan
