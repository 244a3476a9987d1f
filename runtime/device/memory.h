// Page-aligned memory of the host.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <optional>

namespace moeplan {

/// Zeroed pages, taken from the system when first touched and returned on destruction.
class HostMemory {
public:
  HostMemory() = default;
  ~HostMemory();
  HostMemory(HostMemory &&other) noexcept;
  HostMemory &operator=(HostMemory &&other) noexcept;

  /// `purpose` is what an error calls it: "KV cache".
  static Result<HostMemory> allocate(uint64_t bytes, const char *purpose);

  /// Asks for large pages, in which memory is taken from the system several times as fast. Advice,
  /// for what will be written as a whole, before it is.
  void useHugePages() const;

  std::byte *data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

private:
  std::byte *data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Bytes that processes can still take before the system runs out of memory and swap; nothing where
/// it does not say.
std::optional<uint64_t> availableMemoryBytes();

} // namespace moeplan
