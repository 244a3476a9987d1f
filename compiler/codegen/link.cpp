#include "compiler/codegen/link.h"

#include "lld/Common/Driver.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <mutex>

LLD_HAS_DRIVER(elf)

using namespace llvm;

Expected<std::string> moeplan::compiler::linkSharedObject(StringRef object) {
  SmallString<128> input, output;
  if (std::error_code error = sys::fs::createTemporaryFile("moeplan-kernels", "o", input))
    return createStringError(error, "cannot create a temporary file: " + error.message());
  FileRemover removeInput(input);
  if (std::error_code error = sys::fs::createTemporaryFile("moeplan-kernels", "so", output))
    return createStringError(error, "cannot create a temporary file: " + error.message());
  FileRemover removeOutput(output);
  std::error_code error;
  raw_fd_ostream file(input, error);
  file << object;
  file.close();
  if (error || file.has_error()) {
    error = error ? error : file.error();
    file.clear_error();
    return createStringError(error, "cannot write " + input + ": " + error.message());
  }

  const char *arguments[] = {
      "ld.lld", "-shared", "-o", output.c_str(), input.c_str(),      "--build-id=none", "-s",
      "-z",     "now",     "-z", "defs",         "--hash-style=gnu", "--threads=1"};
  std::string messages;
  raw_string_ostream stream(messages);
  static std::mutex lldMutex;
  std::lock_guard lock(lldMutex);
  lld::Result result = lld::lldMain(arguments, stream, stream, {{lld::Gnu, &lld::elf::link}});
  if (result.retCode != 0)
    return createStringError("lld: " + StringRef(messages).trim());
  auto linked = MemoryBuffer::getFile(output, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!linked)
    return createStringError("cannot read " + output + ": " + linked.getError().message());
  return (*linked)->getBuffer().str();
}
