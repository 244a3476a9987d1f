// A file that appears whole or not at all.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace moeplan {

/// Writes in the directory of its target, without a name where the file system can do that;
/// commit() makes it durable and moves it over the target. Without a commit, also when the process
/// is killed or the power fails, nothing is left behind and an existing target stays as it was;
/// where files need names, one is left behind by what ends the process. Messages name the target;
/// the code is MOEPLAN_IO_ERROR, or MOEPLAN_RESOURCE_EXHAUSTED of checkSpace().
class PendingFile {
public:
  static Result<PendingFile> create(std::string target);
  ~PendingFile();
  PendingFile(PendingFile &&other) noexcept;
  PendingFile &operator=(PendingFile &&) = delete;

  /// An error where the file system has less room than `bytes`, which is better known before hours
  /// of writing than behind them. Success where it does not say.
  Status checkSpace(uint64_t bytes) const;
  /// Makes it as long as `bytes`, all zeros from position(), which moves there; takes the room on
  /// the disk where the file system knows how, so that what follows cannot run out of it.
  Status reserve(uint64_t bytes);
  /// Appends; position() moves on.
  Status write(std::span<const std::byte> bytes);
  /// Overwrites bytes before position(). Several threads may, bytes that do not overlap.
  Status writeAt(uint64_t offset, std::span<const std::byte> bytes) const;
  uint64_t position() const { return position_; }
  /// Where this process finds it until commit().
  std::string temporaryPath() const;
  /// A name beside the target, which it has where isNamed(), and in any case while commit() runs.
  const std::string &temporaryName() const { return temporary_; }
  bool isNamed() const { return isNamed_; }

  /// fsync, rename, fsync of the directory.
  enum class Durability {
    flushed, ///< what it replaces, or all of it, is there after a power failure
    ordinary ///< whole for every reader, but a power failure may damage it
  };
  Status commit(Durability durability = Durability::flushed);

private:
  PendingFile() = default;
  Status fail(const char *what) const;

  std::string target_, temporary_;
  bool isNamed_ = false;
  int fd_ = -1;
  uint64_t position_ = 0;
};

} // namespace moeplan
