// Reads files that are mapped, by calls instead of page faults.
#pragma once

#include "runtime/support/mapped_file.h"
#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moeplan {

/// Borrows the mapped file.
class FileReader {
public:
  /// Through the page cache, or past it.
  enum class Mode { cached, direct };

  explicit FileReader(const MappedFile &file) : file_(&file), opened_(2 * file.pieces().size()) {}

  /// Opens the file of piece `index` unless it is open. Errors: MOEPLAN_IO_ERROR,
  /// MOEPLAN_UNSUPPORTED where its file system has no direct reads. By one thread, before it is
  /// read.
  Status open(size_t index, Mode mode);
  Status openAll(Mode mode);

  /// Reads [begin, begin + out.size()) of the mapped bytes. May be called on several threads.
  Status read(uint64_t begin, std::span<std::byte> out) const;
  /// Reads `bytes` of the file of piece `index` from `offset` of it. Direct reads are of whole
  /// pages, at multiples of pages, for which there is room behind `target`.
  Status readPiece(size_t index, uint64_t offset, std::byte *target, uint64_t bytes,
                   Mode mode) const;

private:
  /// An open file, closed on destruction.
  class Descriptor {
  public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    ~Descriptor();
    Descriptor(Descriptor &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor &operator=(Descriptor &&other) noexcept {
      std::swap(fd_, other.fd_);
      return *this;
    }
    int get() const { return fd_; }

  private:
    int fd_;
  };
  static size_t slotOf(size_t index, Mode mode) { return 2 * index + (mode == Mode::direct); }

  const MappedFile *file_;
  std::vector<Descriptor> opened_; ///< of each piece: to read, and to read directly
};

} // namespace moeplan
