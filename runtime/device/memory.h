// Page-aligned memory of the host.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>

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

  std::byte *data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

private:
  std::byte *data_ = nullptr;
  uint64_t bytes_ = 0;
};

} // namespace moeplan
