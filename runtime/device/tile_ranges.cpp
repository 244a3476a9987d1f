#include "runtime/device/tile_ranges.h"

namespace moeplan {

namespace {

uint64_t pack(TileRange range) { return uint64_t(range.begin) << 32 | range.end; }

TileRange unpack(uint64_t packed) {
  return {static_cast<uint32_t>(packed >> 32), static_cast<uint32_t>(packed)};
}

/// A quarter of what is left: few calls of a kernel, and single tiles at the end of a phase, where
/// threads should finish together.
uint32_t grain(TileRange left) { return left.size() / 4 + (left.size() % 4 != 0); }

} // namespace

TileRanges::TileRanges(uint32_t threads)
    : threads_(threads), parts_(std::make_unique<Part[]>(threads)) {}

void TileRanges::assign(uint32_t tiles) {
  uint32_t begin = 0;
  for (uint32_t thread = 0; thread < threads_; ++thread) {
    const auto end = static_cast<uint32_t>(uint64_t(tiles) * (thread + 1) / threads_);
    parts_[thread].range.store(pack({begin, end}), std::memory_order_release);
    begin = end;
  }
}

TileRange TileRanges::take(uint32_t thread) {
  std::atomic<uint64_t> &own = parts_[thread].range;
  uint64_t packed = own.load(std::memory_order_relaxed);
  for (TileRange left = unpack(packed); !left.empty(); left = unpack(packed)) {
    const uint32_t middle = left.begin + grain(left);
    if (own.compare_exchange_weak(packed, pack({middle, left.end}), std::memory_order_acquire,
                                  std::memory_order_relaxed))
      return {left.begin, middle};
  }
  for (;;) {
    std::atomic<uint64_t> *victim = nullptr;
    TileRange longest;
    for (uint32_t other = 0; other < threads_; ++other) {
      const TileRange left = unpack(parts_[other].range.load(std::memory_order_relaxed));
      if (left.empty() || left.size() <= longest.size())
        continue;
      victim = &parts_[other].range;
      longest = left;
    }
    if (!victim)
      return {};
    packed = pack(longest);
    const uint32_t middle = longest.end - grain(longest);
    if (victim->compare_exchange_strong(packed, pack({longest.begin, middle}),
                                        std::memory_order_acquire, std::memory_order_relaxed))
      return {middle, longest.end};
  }
}

} // namespace moeplan
