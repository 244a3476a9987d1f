// How the tiles of a phase are shared out among threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace moeplan {

/// Tiles `begin` .. `end` - 1.
struct TileRange {
  uint32_t begin = 0, end = 0;

  bool empty() const { return begin >= end; }
  uint32_t size() const { return end - begin; }
  bool operator==(const TileRange &) const = default;
};

/// Each thread has one contiguous part of the tiles, since memory is read fastest in long runs, and
/// takes from its front, a few tiles at a time. One whose part is empty takes from the back of the
/// longest part there is. Taking is one compare-and-swap, mostly on a cache line of the thread's
/// own.
///
/// Between two calls of assign() parts only shrink, so that a tile is given out once, however old
/// what the taker has seen is. What happened before assign() is visible to who has taken a tile.
class TileRanges {
public:
  explicit TileRanges(uint32_t threads);

  /// Shares out tiles 0 .. `tiles` - 1. All earlier ones must have been taken.
  void assign(uint32_t tiles);

  /// The next tiles for `thread`; empty when all have been taken.
  TileRange take(uint32_t thread);

private:
  /// `begin` in the high half, `end` in the low one: both change in one step.
  struct alignas(64) Part {
    std::atomic<uint64_t> range{0};
  };

  uint32_t threads_;
  std::unique_ptr<Part[]> parts_;
};

} // namespace moeplan
