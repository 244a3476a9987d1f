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

} // namespace moeplan::compiler
