// A file that appears whole or not at all.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>

namespace moeplan::compiler {

/// Writes beside its target under a temporary name; commit() makes it durable and moves it over the
/// target. Without a commit, also when the process is interrupted, nothing is left behind and an
/// existing target stays as it was.
class AtomicFile {
public:
  static llvm::Expected<AtomicFile> create(llvm::StringRef target);
  ~AtomicFile();
  AtomicFile(AtomicFile &&other) noexcept;
  AtomicFile &operator=(AtomicFile &&) = delete;

  /// An error where the file system has less room than `bytes`, which is better known before hours
  /// of writing than behind them. Success where it does not say.
  llvm::Error checkSpace(uint64_t bytes) const;
  /// Appends; position() moves on.
  llvm::Error write(llvm::ArrayRef<uint8_t> bytes);
  /// Appends zeros up to byte `position`.
  llvm::Error padTo(uint64_t position);
  /// Overwrites bytes that have been written already.
  llvm::Error writeAt(uint64_t offset, llvm::ArrayRef<uint8_t> bytes);
  uint64_t position() const { return position_; }
  /// Where it is until commit().
  const std::string &temporaryPath() const { return temporary_; }

  /// fsync, rename, fsync of the directory.
  llvm::Error commit();

private:
  AtomicFile() = default;
  llvm::Error fail(const char *what) const;

  std::string target_, temporary_;
  int fd_ = -1;
  uint64_t position_ = 0;
};

/// Writes a whole file of text that way.
llvm::Error writeTextFile(llvm::StringRef target, llvm::StringRef text);

} // namespace moeplan::compiler
