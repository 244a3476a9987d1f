#include "compiler/import/input_file.h"

#include "compiler/import/messages.h"

namespace moeplan::compiler {

llvm::Expected<InputFile> InputFile::open(const std::string &path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped.ok())
    return importError(mapped.failure().message());
  InputFile file;
  file.file_ = std::move(mapped).value();
  return file;
}

llvm::Error InputFile::bringIn(llvm::ArrayRef<uint8_t> range) const {
  const std::span bytes(reinterpret_cast<const std::byte *>(range.data()), range.size());
  file_.readAhead(bytes);
  Status status = file_.bringIn(bytes);
  return status.ok() ? llvm::Error::success() : importError(status.message());
}

} // namespace moeplan::compiler
