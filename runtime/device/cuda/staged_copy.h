// Brings bytes from wherever they are to a cuda device: straight into pinned buffers, by several
// threads, while what was read before is on the link.
#pragma once

#include "runtime/device/cuda/cuda_device.h"

#include <array>
#include <cstdint>
#include <functional>
#include <span>

namespace moeplan {

/// Used by one thread at a time. The device must outlive it.
class StagedCopy {
public:
  /// Threads that read.
  static constexpr unsigned kThreads = 4;

  explicit StagedCopy(CudaDevice &device) : device_(device) {}
  /// Waits for what is under way.
  ~StagedCopy();
  StagedCopy(const StagedCopy &) = delete;
  StagedCopy &operator=(const StagedCopy &) = delete;

  /// Writes what begins at `begin` to a buffer. Called on several threads.
  using Read = std::function<Status(uint64_t begin, std::span<std::byte> buffer)>;
  /// Is shown every part once, in their order, on the calling thread; an error ends the copy.
  using See = std::function<Status(std::span<const std::byte> part)>;

  /// Sends `bytes` to `target` in the device's memory, and returns when the last part is under way.
  /// After an error nothing is. Errors: those of `read` and `see`, the driver's,
  /// MOEPLAN_RESOURCE_EXHAUSTED.
  Status copy(std::byte *target, uint64_t bytes, const Read &read, const See &see);
  /// Returns when everything has arrived.
  Status finish();

private:
  static constexpr uint64_t kPartBytes = 2 << 20, kBuffers = 8;
  struct Buffer {
    PinnedMemory memory;
    cuda::Event sent = nullptr;
    bool isUnderWay = false;
  };
  Status prepare();
  Status waitFor(Buffer &buffer) const;
  Status copyParts(std::byte *target, uint64_t bytes, const Read &read, const See &see);

  CudaDevice &device_;
  std::array<Buffer, kBuffers> buffers_;
  uint64_t first_ = 0; ///< the buffer of the next part: they go round
};

} // namespace moeplan
