// Brings experts that the host keeps to the device, between the routing of a layer and its experts,
// without the host: they are read over the link and written to slots, which the layer's table
// points to. Those that find no slot are read in place.
#pragma once

#include "weights.cuh"

namespace moeplan {

/// Bytes of a weight [rows, columns] (kernel_abi.h).
__device__ inline int64_t weightBytes(int format, int64_t rows, int64_t columns) {
  return (rows + MOEPLAN_TILE_ROWS - 1) / MOEPLAN_TILE_ROWS * tileBytes(format, columns);
}

/// What one step does about a layer's experts: every block of threads comes to the same.
template <int kExperts> struct FetchPlan {
  struct Copy {
    const void *from;
    void *to;
    int64_t bytes;
  };
  moeplan_expert rows[kExperts]; ///< of the table
  Copy copies[3 * kExperts];
  int copyCount;
  uint32_t holds[kExperts]; ///< by slot: its expert
  bool used[kExperts];      ///< by slot: in this step
  uint32_t hits, misses;
  uint64_t missBytes;

  __device__ void make(const moeplan_expert_slots &slots, const uint32_t *expertBegin,
                       int64_t features, int64_t intermediate) {
    copyCount = 0;
    hits = misses = 0;
    missBytes = 0;
    for (uint32_t s = 0; s < slots.count; ++s) {
      holds[s] = slots.keeps ? slots.slots[s].expert : MOEPLAN_NO_EXPERT;
      used[s] = false;
    }
    for (int e = 0; e < kExperts; ++e)
      rows[e] = slots.homes[e];
    auto isWanted = [&](int e) { return rows[e].on_host && expertBegin[e + 1] > expertBegin[e]; };
    // What is there already must not make room for what is not.
    for (int e = 0; e < kExperts; ++e)
      if (isWanted(e))
        for (uint32_t s = 0; s < slots.count; ++s)
          if (holds[s] == uint32_t(e)) {
            use(slots, s, e, features, intermediate, false);
            ++hits;
          }
    for (int e = 0; e < kExperts; ++e) {
      if (!isWanted(e))
        continue; // that it is on the host is true no longer once it has a slot
      int64_t bytes = 0;
      for (int i = 0; i < 3; ++i)
        bytes += aligned(bytesOf(rows[e], i, features, intermediate));
      ++misses;
      missBytes += uint64_t(bytes);
      int oldest = -1;
      for (uint32_t s = 0; s < slots.count; ++s)
        if (!used[s] && (oldest < 0 || slots.slots[s].last_use < slots.slots[oldest].last_use))
          oldest = int(s);
      if (oldest >= 0 && uint64_t(bytes) <= slots.slot_bytes)
        use(slots, uint32_t(oldest), e, features, intermediate, true);
    }
  }

private:
  /// The bytes of linear `index` of an expert, which a slot holds one behind the other.
  __device__ static int64_t bytesOf(const moeplan_expert &row, int index, int64_t features,
                                    int64_t intermediate) {
    return index == 2 ? weightBytes(row.w2_format, features, intermediate)
                      : weightBytes(index ? row.w3_format : row.w1_format, intermediate, features);
  }
  __device__ static int64_t aligned(int64_t bytes) {
    return (bytes + MOEPLAN_SLOT_ALIGNMENT - 1) / MOEPLAN_SLOT_ALIGNMENT * MOEPLAN_SLOT_ALIGNMENT;
  }

  /// Makes expert `e` read slot `s`, to which it is copied unless it is there.
  __device__ void use(const moeplan_expert_slots &slots, uint32_t s, int e, int64_t features,
                      int64_t intermediate, bool copy) {
    moeplan_expert &row = rows[e];
    const void **const linears[3] = {&row.w1, &row.w3, &row.w2};
    char *place = slots.memory + s * slots.slot_bytes;
    for (int i = 0; i < 3; ++i) {
      const int64_t bytes = bytesOf(row, i, features, intermediate);
      if (copy)
        copies[copyCount++] = {*linears[i], place, bytes};
      *linears[i] = place;
      place += aligned(bytes);
    }
    row.on_host = 0;
    holds[s] = uint32_t(e);
    used[s] = true;
  }
};

/// Any number of blocks share the copies; the last one to finish writes the layer's table. slots:
/// moeplan_expert_slots, of at most num_experts slots.
template <class C>
__device__ void fetch_experts(const moeplan_step *, Binding<moeplan_expert> experts,
                              Binding<const uint32_t> expertBegin,
                              Binding<moeplan_expert_slots> slotsOfLayer) {
  constexpr int kAtOnce = 8; // loads of a thread under way: the link is far
  __shared__ FetchPlan<C::num_experts> plan;
  __shared__ bool last;
  moeplan_expert_slots &slots = *slotsOfLayer.pointer;
  if (threadIdx.x == 0)
    plan.make(slots, expertBegin, C::features, C::intermediate);
  __syncthreads();
  const int64_t first = int64_t(blockIdx.x) * C::threads + threadIdx.x;
  const int64_t stride = int64_t(gridDim.x) * C::threads;
  for (int c = 0; c < plan.copyCount; ++c) {
    const uint4 *from = (const uint4 *)plan.copies[c].from;
    uint4 *to = (uint4 *)plan.copies[c].to;
    const int64_t count = plan.copies[c].bytes / int64_t(sizeof(uint4));
    for (int64_t i = first; i < count; i += kAtOnce * stride) {
      uint4 part[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        part[j] = i + j * stride < count ? loadStreamed(from + i + j * stride) : uint4{};
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        if (i + j * stride < count)
          to[i + j * stride] = part[j];
    }
  }
  // The state is only written once no block reads it any more.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0)
    last = atomicAdd(&slots.blocks_done, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last)
    return;
  for (int e = threadIdx.x; e < C::num_experts; e += C::threads)
    experts[e] = plan.rows[e];
  const uint32_t clock = slots.clock + 1;
  for (uint32_t s = threadIdx.x; s < slots.count; s += C::threads) {
    slots.slots[s].expert = plan.holds[s];
    if (plan.used[s])
      slots.slots[s].last_use = clock;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    slots.clock = clock;
    slots.blocks_done = 0;
    slots.totals[0] = slots.hits += plan.hits;
    slots.totals[1] = slots.misses += plan.misses;
    slots.totals[2] = slots.miss_bytes += plan.missBytes;
  }
}

} // namespace moeplan
