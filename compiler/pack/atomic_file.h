// A file that appears whole or not at all.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>

namespace moeplan::compiler {

/// Writes in the directory of its target, without a name where the file system can do that;
/// commit() makes it durable and moves it over the target. Without a commit, also when the process
/// is killed or the power fails, nothing is left behind and an existing target stays as it was;
/// where files need names, one is left behind by what cannot be caught.
class AtomicFile {
public:
  static llvm::Expected<AtomicFile> create(llvm::StringRef target);
  ~AtomicFile();
  AtomicFile(AtomicFile &&other) noexcept;
  AtomicFile &operator=(AtomicFile &&) = delete;

  /// An error where the file system has less room than `bytes`, which is better known before hours
  /// of writing than behind them. Success where it does not say.
  llvm::Error checkSpace(uint64_t bytes) const;
  /// Makes it as long as `bytes`, all zeros from position(), which moves there; takes the room on
  /// the disk where the file system knows how, so that what follows cannot run out of it.
  llvm::Error reserve(uint64_t bytes);
  /// Appends; position() moves on.
  llvm::Error write(llvm::ArrayRef<uint8_t> bytes);
  /// Appends zeros up to byte `position`.
  llvm::Error padTo(uint64_t position);
  /// Overwrites bytes before position(). Several threads may, bytes that do not overlap.
  llvm::Error writeAt(uint64_t offset, llvm::ArrayRef<uint8_t> bytes);
  uint64_t position() const { return position_; }
  /// Where this process finds it until commit().
  std::string temporaryPath() const;

  enum class Durability {
    Flushed, ///< what it replaces, or all of it, is there after a power failure
    Ordinary ///< whole for every reader, but a power failure may damage it
  };
  llvm::Error commit(Durability durability = Durability::Flushed);

private:
  AtomicFile() = default;
  llvm::Error fail(const char *what) const;

  std::string target_;
  std::string temporary_; ///< a name beside the target
  bool isNamed_ = false;  ///< it has that name already
  int fd_ = -1;
  uint64_t position_ = 0;
};

/// Writes a whole file of text that way.
llvm::Error writeTextFile(llvm::StringRef target, llvm::StringRef text);

} // namespace moeplan::compiler
