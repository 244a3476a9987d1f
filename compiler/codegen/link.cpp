#include "compiler/codegen/link.h"

#include "lld/Common/Driver.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>
#include <mutex>
#include <vector>

LLD_HAS_DRIVER(elf)

using namespace llvm;

namespace {

/// A file with a name of its own, which goes away with this object.
class ScratchFile {
public:
  static Expected<std::unique_ptr<ScratchFile>> create(StringRef suffix) {
    SmallString<128> path;
    if (std::error_code error = sys::fs::createTemporaryFile("moeplan-kernels", suffix, path))
      return createStringError(error, "cannot create a temporary file: " + error.message());
    return std::make_unique<ScratchFile>(path);
  }
  explicit ScratchFile(StringRef path) : path(path), remover(path) {}

  Error write(StringRef bytes) const {
    std::error_code error;
    raw_fd_ostream file(path, error);
    file << bytes;
    file.close();
    if (!error && !file.has_error())
      return Error::success();
    error = error ? error : file.error();
    file.clear_error();
    return createStringError(error, "cannot write " + path + ": " + error.message());
  }

  const std::string path;

private:
  FileRemover remover;
};

} // namespace

Expected<std::string> moeplan::compiler::linkSharedObject(ArrayRef<std::string> objects) {
  auto output = ScratchFile::create("so");
  if (!output)
    return output.takeError();
  std::vector<std::unique_ptr<ScratchFile>> inputs;
  std::vector<const char *> arguments{
      "ld.lld", "-shared", "-o",   (*output)->path.c_str(), "--build-id=none", "-s", "-z",
      "now",    "-z",      "defs", "--hash-style=gnu",      "--threads=1"};
  for (const std::string &object : objects) {
    auto input = ScratchFile::create("o");
    if (!input)
      return input.takeError();
    if (Error error = (*input)->write(object))
      return error;
    inputs.push_back(std::move(*input));
    arguments.push_back(inputs.back()->path.c_str());
  }
  std::string messages;
  raw_string_ostream stream(messages);
  static std::mutex lldMutex;
  std::lock_guard lock(lldMutex);
  lld::Result result = lld::lldMain(arguments, stream, stream, {{lld::Gnu, &lld::elf::link}});
  if (result.retCode != 0)
    return createStringError("lld: " + StringRef(messages).trim());
  auto linked =
      MemoryBuffer::getFile((*output)->path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!linked)
    return createStringError("cannot read " + (*output)->path + ": " + linked.getError().message());
  return (*linked)->getBuffer().str();
}
