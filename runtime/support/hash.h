// Streaming XXH3-64, the checksum of artifacts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <xxhash.h>

namespace moeplan {

/// Hashes bytes given in any number of parts.
class Hasher {
public:
  Hasher() : state_(XXH3_createState()) {
    if (!state_)
      throw std::bad_alloc();
    XXH3_64bits_reset(state_.get());
  }
  void update(const void *data, size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
  void update(std::span<const std::byte> bytes) { update(bytes.data(), bytes.size()); }
  uint64_t digest() const { return XXH3_64bits_digest(state_.get()); }

private:
  struct Free {
    void operator()(XXH3_state_t *state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

} // namespace moeplan
