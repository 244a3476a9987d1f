// CUDA's part of C++ on a CPU: device.cuh includes this instead of instructions of a GPU, so that
// the very sources that NVRTC compiles run here. Blocks run one after another, each of their
// threads on a stack of its own (executor.h); what threads do together (shuffles, votes, barriers,
// products of matrices) are functions that switch to the next one.
//
// Not modelled: memory that is shared between blocks in any other order than one block after
// another, the sizes of caches and registers, alignment of shared memory.
#pragma once

#include "kernel_abi.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __constant__ static
#define __shared__ static
#define __launch_bounds__(...)

namespace moeplan::simt {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
/// Of the thread that runs; set by the executor. Read again behind every call that switches.
extern Index threadIndex, blockIndex, blockSize, gridSize;

/// What the lanes of a warp do together. All 32 must come to the same one, else the launch fails.
enum class Meeting : uint32_t { Sync, Shuffle, Ballot, Multiply };
constexpr int kMostWords = 16;

/// Deposits `words` values of the running lane and waits for all lanes of its warp; returns the
/// deposits of all, [32][kMostWords], valid until the lane's next meeting.
const uint32_t (*meet(Meeting meeting, const uint32_t *values, int words))[kMostWords];
/// Waits for all threads of the block.
void meetBlock();

/// Copies of 16 bytes (zeros from null) that the running thread begins are made when it waits for
/// their group, and no sooner, or all at once (executor.h): who reads too early, or begins before
/// the others have read, finds the wrong bytes.
void beginCopy(void *target, const void *source);
void commitCopies();
void waitForCopies(unsigned groups);

} // namespace moeplan::simt

#define threadIdx (::moeplan::simt::threadIndex)
#define blockIdx (::moeplan::simt::blockIndex)
#define blockDim (::moeplan::simt::blockSize)
#define gridDim (::moeplan::simt::gridSize)

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float cospif(float x) { return float(std::cos(M_PI * double(x))); }
inline float sinpif(float x) { return float(std::sin(M_PI * double(x))); }
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }

inline void __syncthreads() { moeplan::simt::meetBlock(); }
inline void __syncwarp() { moeplan::simt::meet(moeplan::simt::Meeting::Sync, nullptr, 0); }
inline void __threadfence() {}

template <class T> T __shfl_xor_sync(uint32_t, T value, int mask) {
  static_assert(sizeof(T) == 4);
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const auto *all = moeplan::simt::meet(moeplan::simt::Meeting::Shuffle, &bits, 1);
  std::memcpy(&value, &all[(threadIdx.x % 32) ^ unsigned(mask)][0], 4);
  return value;
}
inline uint32_t __ballot_sync(uint32_t, bool vote) {
  const uint32_t value = vote;
  const auto *all = moeplan::simt::meet(moeplan::simt::Meeting::Ballot, &value, 1);
  uint32_t bits = 0;
  for (int l = 0; l < 32; ++l)
    bits |= all[l][0] << l;
  return bits;
}
template <class T> T atomicAdd(T *target, T value) {
  const T before = *target;
  *target += value;
  return before;
}

namespace moeplan {

inline uint4 loadStreamed(const void *address) { return *(const uint4 *)address; }

inline uint32_t toBf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (std::isnan(value))
    return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t toBf16Pair(float low, float high) { return toBf16(low) | toBf16(high) << 16; }

inline uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= uint32_t(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}

/// Lane 4 g + t: see device.cuh. Element (row, column) of a is in lane 4 (row % 8) + column / 2 %
/// 4, register row / 8 + 2 (column / 8), half column % 2; of b, column n row k, in lane 4 n + k / 2
/// % 4, register k / 8, half k % 2.
inline void multiplyAdd(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                        uint32_t b0, uint32_t b1) {
  const uint32_t own[6] = {a0, a1, a2, a3, b0, b1};
  const auto *all = simt::meet(simt::Meeting::Multiply, own, 6);
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), n = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const uint32_t a = all[4 * (row % 8) + k / 2 % 4][row / 8 + 2 * (k / 8)];
      const uint32_t b = all[4 * n + k / 2 % 4][4 + k / 8];
      sum += __uint_as_float(k % 2 ? a & 0xffff0000u : a << 16) *
             __uint_as_float(k % 2 ? b & 0xffff0000u : b << 16);
    }
    d[i] += sum;
  }
}

inline uint32_t multiplyAddPairs(uint32_t a, uint32_t b, uint32_t c) {
  const auto half = [&](int shift) {
    const auto value = [&](uint32_t pair) { return double(__uint_as_float(pair >> shift << 16)); };
    // Two roundings are one as long as float32 holds the sum, which the tests see to.
    return toBf16(float(value(a) * value(b) + value(c)));
  };
  return half(0) | half(16) << 16;
}

inline void copyAsync(void *shared, const void *global, bool there) {
  simt::beginCopy(shared, there ? global : nullptr);
}
inline void commitCopies() { simt::commitCopies(); }
template <int kGroups> void waitForCopies() { simt::waitForCopies(kGroups); }

} // namespace moeplan
