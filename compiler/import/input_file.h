// The runtime's file mapping with the compiler's types and errors.
#pragma once

#include "runtime/support/mapped_file.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>

namespace moeplan::compiler {

/// A regular file of a checkpoint, mapped read-only: see moeplan::MappedFile.
class InputFile {
public:
  /// Maps `path`. Errors carry the path and the system's reason.
  static llvm::Expected<InputFile> open(const std::string &path);
  InputFile() = default;

  /// The whole file; valid as long as this object.
  llvm::ArrayRef<uint8_t> bytes() const {
    return {reinterpret_cast<const uint8_t *>(file_.bytes().data()), file_.bytes().size()};
  }
  llvm::StringRef text() const {
    return {reinterpret_cast<const char *>(file_.bytes().data()), file_.bytes().size()};
  }
  const FileStamp &stamp() const { return file_.pieces().front().stamp; }
  /// See MappedFile: readAhead(), then bringIn().
  llvm::Error bringIn(llvm::ArrayRef<uint8_t> range) const;
  /// See MappedFile::release().
  void release(llvm::ArrayRef<uint8_t> range) const {
    file_.release({reinterpret_cast<const std::byte *>(range.data()), range.size()});
  }

private:
  MappedFile file_;
};

} // namespace moeplan::compiler
