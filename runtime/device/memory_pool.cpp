#include "runtime/device/memory_pool.h"

#include <algorithm>
#include <iterator>

namespace moeplan {

namespace {

/// Bytes taken from the system at least.
constexpr uint64_t kPieceBytes = uint64_t(64) << 20;

uint64_t rounded(uint64_t bytes) {
  return (bytes + MemoryPool::kAlignment - 1) / MemoryPool::kAlignment * MemoryPool::kAlignment;
}

} // namespace

Result<std::byte *> MemoryPool::allocate(uint64_t bytes, const char *purpose) {
  const uint64_t wanted = rounded(bytes);
  const std::lock_guard lock(mutex_);
  auto block = std::find_if(free_.begin(), free_.end(),
                            [&](const auto &entry) { return entry.second >= wanted; });
  if (block == free_.end()) {
    MOEPLAN_ASSIGN(HostMemory piece, HostMemory::allocate(std::max(wanted, kPieceBytes), purpose));
    piece.useHugePages();
    block = free_.emplace(piece.data(), piece.bytes()).first;
    pieces_.push_back(std::move(piece));
  }
  const auto [data, size] = *block;
  free_.erase(block);
  if (size > wanted)
    free_.emplace(data + wanted, size - wanted);
  return data;
}

void MemoryPool::release(std::byte *block, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  auto at = free_.emplace(block, rounded(bytes)).first;
  // Pieces are never neighbours but by chance, and then a block across both is as good.
  if (const auto next = std::next(at);
      next != free_.end() && at->first + at->second == next->first) {
    at->second += next->second;
    free_.erase(next);
  }
  if (at != free_.begin())
    if (const auto previous = std::prev(at); previous->first + previous->second == at->first) {
      previous->second += at->second;
      free_.erase(at);
    }
}

} // namespace moeplan
