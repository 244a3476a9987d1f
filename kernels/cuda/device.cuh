// What kernels take from the machine they run on: NVIDIA's instructions, in PTX, without any header
// of the toolkit. Everything that is not plain C++ is in this file.
#pragma once

#include "kernel_abi.h"

#ifdef MOEPLAN_SIMT
#include "simt.h" // the same on a CPU, for tests
#endif

#ifndef INFINITY
#define INFINITY __uint_as_float(0x7f800000u)
#endif

namespace moeplan {

constexpr int kWarp = 32;

/// A binding of a dispatch: an untyped pointer, taken as one to T.
template <class T> struct Binding {
  T *pointer;
  __device__ Binding(const void *binding) : pointer((T *)binding) {}
  __device__ operator T *() const { return pointer; }
};

__device__ inline int lane() { return int(threadIdx.x) % kWarp; }
__device__ inline int warp() { return int(threadIdx.x) / kWarp; }

#ifndef MOEPLAN_SIMT

/// 16 bytes of a weight: read once, past the first cache.
__device__ inline uint4 loadStreamed(const void *address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

/// Two float32 as bf16, rounded to nearest even; `low` in the lower half.
__device__ inline uint32_t toBf16Pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// Byte i of the result is byte `selector` nibble i of (high, low).
__device__ inline uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}

/// d [16, 8] += a [16, 16] b [16, 8], bf16 with float32 sums (PTX: mma.m16n8k16). Lane 4 g + t has
/// in a rows g and g + 8 of column pairs t and t + 4, in b the same pairs of column g, in d rows g
/// and g + 8 of columns 2 t and 2 t + 1.
__device__ inline void multiplyAdd(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                   uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
               "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// a * b + c of each half, rounded once.
__device__ inline uint32_t multiplyAddPairs(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/// Begins a copy of 16 bytes to shared memory; zeros where they are not `there`. Both addresses are
/// multiples of 16.
__device__ inline void copyAsync(void *shared, const void *global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   (uint32_t)__cvta_generic_to_shared(shared)),
               "l"(global), "r"(there ? 16 : 0)
               : "memory");
}
/// Ends a group of this thread's copies.
__device__ inline void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until no more than `kGroups` groups of this thread are under way.
template <int kGroups> __device__ inline void waitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

#endif // MOEPLAN_SIMT

} // namespace moeplan
