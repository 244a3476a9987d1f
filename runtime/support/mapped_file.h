// A file mapped read-only.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moeplan {

/// What changes when a file does, as far as a file system tells.
struct FileStamp {
  bool operator==(const FileStamp &) const = default;

  uint64_t device = 0, inode = 0, bytes = 0;
  int64_t modified = 0, changed = 0; ///< ns since the epoch: content; content, name or rights
};

/// A range of a file, and where it is mapped.
struct FilePiece {
  std::string path;
  FileStamp stamp;     ///< when it was mapped
  uint64_t offset = 0; ///< in the file
  uint64_t begin = 0;  ///< in the mapping
  uint64_t bytes = 0;
};

/// The whole of a regular file, or ranges of several one behind the other, in memory, shared with
/// the page cache. Unmapped on destruction. Immutable; may be used from several threads. A file
/// that shrinks while it is mapped is the one fault this cannot turn into a status.
class MappedFile {
public:
  static Result<MappedFile> open(const std::string &path);
  /// The ranges that `pieces` name by path, offset and bytes, in their order; all but the last are
  /// whole pages, and offsets are of pages. Stamps must be those of the files. Errors:
  /// MOEPLAN_NOT_FOUND, MOEPLAN_IO_ERROR.
  static Result<MappedFile> join(std::vector<FilePiece> pieces);
  ~MappedFile();
  MappedFile(MappedFile &&other) noexcept;
  MappedFile &operator=(MappedFile &&other) noexcept;

  MappedFile() = default; ///< no bytes

  std::span<const std::byte> bytes() const { return bytes_; }
  /// What is mapped where.
  const std::vector<FilePiece> &pieces() const { return pieces_; }
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
  std::vector<FilePiece> pieces_;
};

} // namespace moeplan
