// Memory that is taken from the system once and then used again and again.
#pragma once

#include "runtime/device/memory.h"
#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace moeplan {

/// Blocks out of large pieces, as a device's driver hands them out: a block that comes back costs
/// no system call and no page fault, neither now nor when it is used again, and interrupts no other
/// thread. First fit; neighbours that are free become one. May be used from any number of threads.
class MemoryPool {
public:
  static constexpr uint64_t kAlignment = 256;

  /// `bytes` above 0. What is in the block is undefined. Errors: MOEPLAN_RESOURCE_EXHAUSTED.
  Result<std::byte *> allocate(uint64_t bytes, const char *purpose);
  /// Takes back a block of `bytes` that allocate() gave out.
  void release(std::byte *block, uint64_t bytes);

private:
  std::mutex mutex_;
  std::vector<HostMemory> pieces_;
  std::map<std::byte *, uint64_t> free_; ///< bytes of each block, by its address
};

} // namespace moeplan
