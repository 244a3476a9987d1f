// A file mapped read-only.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <span>
#include <string>

namespace moeplan {

/// The whole of a regular file in memory, shared with the page cache. Unmapped on destruction. A
/// file that shrinks while it is mapped is the one fault this cannot turn into a status.
class MappedFile {
public:
  static Result<MappedFile> open(const std::string &path);
  ~MappedFile();
  MappedFile(MappedFile &&other) noexcept;
  MappedFile &operator=(MappedFile &&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

private:
  MappedFile() = default;
  std::span<const std::byte> bytes_;
};

} // namespace moeplan
