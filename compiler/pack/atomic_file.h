// The runtime's files that appear whole or not at all, with the compiler's types and errors.
#pragma once

#include "runtime/support/pending_file.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>

namespace moeplan::compiler {

/// See PendingFile. A temporary name goes away when the process is interrupted, too.
class AtomicFile {
public:
  using Durability = PendingFile::Durability;

  static llvm::Expected<AtomicFile> create(llvm::StringRef target);
  ~AtomicFile();
  AtomicFile(AtomicFile &&) = default;
  AtomicFile &operator=(AtomicFile &&) = delete;

  llvm::Error checkSpace(uint64_t bytes) const;
  llvm::Error reserve(uint64_t bytes);
  llvm::Error write(llvm::ArrayRef<uint8_t> bytes);
  /// Appends zeros up to byte `position`.
  llvm::Error padTo(uint64_t position);
  llvm::Error writeAt(uint64_t offset, llvm::ArrayRef<uint8_t> bytes);
  uint64_t position() const { return file_.position(); }
  std::string temporaryPath() const { return file_.temporaryPath(); }
  llvm::Error commit(Durability durability = Durability::flushed);

private:
  explicit AtomicFile(PendingFile file);
  PendingFile file_;
};

/// Writes a whole file of text that way.
llvm::Error writeTextFile(llvm::StringRef target, llvm::StringRef text);

} // namespace moeplan::compiler
