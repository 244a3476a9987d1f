// A file that is needed for a while.
#pragma once

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Signals.h"

#include <string>

namespace moeplan::compiler {

/// The name of a file, which goes away with this object, also on a signal. Whoever needs it makes
/// it.
class TemporaryFile {
public:
  explicit TemporaryFile(llvm::StringRef path) : path_(path.str()) {
    llvm::sys::RemoveFileOnSignal(path_);
  }
  ~TemporaryFile() {
    (void)llvm::sys::fs::remove(path_);
    llvm::sys::DontRemoveFileOnSignal(path_);
  }
  TemporaryFile(const TemporaryFile &) = delete;
  TemporaryFile &operator=(const TemporaryFile &) = delete;

  const std::string &path() const { return path_; }

private:
  std::string path_;
};

} // namespace moeplan::compiler
