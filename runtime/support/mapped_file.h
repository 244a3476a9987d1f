// A file mapped read-only.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace moeplan {

/// What changes when a file does, as far as a file system tells.
struct FileStamp {
  uint64_t device = 0, inode = 0, bytes = 0;
  int64_t modified = 0, changed = 0; ///< ns since the epoch: content; content, name or rights
};

/// The whole of a regular file in memory, shared with the page cache. Unmapped on destruction.
/// Immutable; may be used from several threads. A file that shrinks while it is mapped is the one
/// fault this cannot turn into a status.
class MappedFile {
public:
  static Result<MappedFile> open(const std::string &path);
  ~MappedFile();
  MappedFile(MappedFile &&other) noexcept;
  MappedFile &operator=(MappedFile &&other) noexcept;

  MappedFile() = default; ///< no bytes

  std::span<const std::byte> bytes() const { return bytes_; }
  /// When it was opened.
  const FileStamp &stamp() const { return stamp_; }
  /// Lets the kernel read `range`, a part of bytes(), from the disk while other things happen.
  void readAhead(std::span<const std::byte> range) const;
  /// Reads `range`, a part of bytes(), into memory and maps it, so that touching it waits for
  /// nothing. Errors: MOEPLAN_IO_ERROR where the file cannot be read.
  Status bringIn(std::span<const std::byte> range) const;
  /// Drops from resident memory the whole pages inside `range`, a part of bytes(). They are read
  /// from the file again when touched.
  void release(std::span<const std::byte> range) const;

private:
  std::span<const std::byte> bytes_;
  FileStamp stamp_;
};

} // namespace moeplan
