#include "compiler/pack/atomic_file.h"

#include "llvm/Support/Signals.h"

#include <algorithm>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

Error toError(Status status) {
  return status.ok() ? Error::success() : createStringError(std::move(status).message());
}

std::span<const std::byte> bytesOf(ArrayRef<uint8_t> bytes) {
  return std::as_bytes(std::span(bytes.data(), bytes.size()));
}

} // namespace

AtomicFile::AtomicFile(PendingFile file) : file_(std::move(file)) {
  sys::RemoveFileOnSignal(file_.temporaryName());
}

AtomicFile::~AtomicFile() {
  if (!file_.temporaryName().empty()) // it has not been moved from
    sys::DontRemoveFileOnSignal(file_.temporaryName());
}

Expected<AtomicFile> AtomicFile::create(StringRef target) {
  Result<PendingFile> created = PendingFile::create(target.str());
  if (!created.ok())
    return createStringError(created.failure().message());
  return AtomicFile(std::move(created).value());
}

Error AtomicFile::checkSpace(uint64_t bytes) const { return toError(file_.checkSpace(bytes)); }

Error AtomicFile::reserve(uint64_t bytes) { return toError(file_.reserve(bytes)); }

Error AtomicFile::write(ArrayRef<uint8_t> bytes) { return toError(file_.write(bytesOf(bytes))); }

Error AtomicFile::writeAt(uint64_t offset, ArrayRef<uint8_t> bytes) {
  return toError(file_.writeAt(offset, bytesOf(bytes)));
}

Error AtomicFile::padTo(uint64_t position) {
  static constexpr uint8_t kZeros[4096] = {};
  while (this->position() < position)
    if (Error error = write(ArrayRef<uint8_t>(
            kZeros, std::min<uint64_t>(position - this->position(), sizeof(kZeros)))))
      return error;
  return Error::success();
}

Error AtomicFile::commit(Durability durability) { return toError(file_.commit(durability)); }

Error moeplan::compiler::writeTextFile(StringRef target, StringRef text) {
  auto file = AtomicFile::create(target);
  if (!file)
    return file.takeError();
  if (Error error = file->write({reinterpret_cast<const uint8_t *>(text.data()), text.size()}))
    return error;
  return file->commit();
}
