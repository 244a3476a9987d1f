#include "compiler/pack/atomic_file.h"

#include "runtime/support/units.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Signals.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <utility>

using namespace llvm;
using namespace moeplan::compiler;

Error AtomicFile::fail(const char *what) const {
  return createStringError(std::error_code(errno, std::generic_category()),
                           target_ + ": cannot " + what + ": " + std::strerror(errno));
}

Expected<AtomicFile> AtomicFile::create(StringRef target) {
  AtomicFile file;
  file.target_ = target.str();
  static std::atomic<uint64_t> count{0};
  file.temporary_ =
      file.target_ + ".tmp." + std::to_string(getpid()) + "." + std::to_string(count++);
  struct stat info{};
  if (stat(file.target_.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    return createStringError(file.target_ + ": exists and is not a regular file");
  const StringRef directory = sys::path::parent_path(file.target_);
  file.fd_ =
      open(directory.empty() ? "." : directory.str().c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0666);
  // It is given its name through /proc.
  if (file.fd_ >= 0 && access(file.temporaryPath().c_str(), F_OK) == 0)
    return file;
  if (file.fd_ >= 0)
    close(file.fd_);
  file.isNamed_ = true;
  file.fd_ = open(file.temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file.fd_ < 0)
    return file.fail("create");
  sys::RemoveFileOnSignal(file.temporary_);
  return file;
}

std::string AtomicFile::temporaryPath() const {
  return isNamed_ ? temporary_ : "/proc/self/fd/" + std::to_string(fd_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0)
    return;
  close(fd_);
  if (!isNamed_)
    return;
  unlink(temporary_.c_str());
  sys::DontRemoveFileOnSignal(temporary_);
}

AtomicFile::AtomicFile(AtomicFile &&other) noexcept
    : target_(std::move(other.target_)), temporary_(std::move(other.temporary_)),
      isNamed_(other.isNamed_), fd_(std::exchange(other.fd_, -1)), position_(other.position_) {}

Error AtomicFile::checkSpace(uint64_t bytes) const {
  struct statvfs info{};
  if (fstatvfs(fd_, &info) != 0)
    return Error::success();
  const uint64_t available = uint64_t(info.f_bavail) * info.f_frsize;
  if (bytes <= available)
    return Error::success();
  return createStringError(target_ + ": takes " + formatBytes(static_cast<double>(bytes)) +
                           ", its file system has " + formatBytes(static_cast<double>(available)) +
                           " left");
}

Error AtomicFile::writeAt(uint64_t offset, ArrayRef<uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return fail("write");
    bytes = bytes.drop_front(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return Error::success();
}

Error AtomicFile::write(ArrayRef<uint8_t> bytes) {
  if (Error error = writeAt(position_, bytes))
    return error;
  position_ += bytes.size();
  return Error::success();
}

Error AtomicFile::reserve(uint64_t bytes) {
  const auto offset = static_cast<off_t>(position_), length = static_cast<off_t>(bytes - position_);
  int result = 0;
  do
    result = fallocate(fd_, 0, offset, length);
  while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
    result = ftruncate(fd_, static_cast<off_t>(bytes));
  if (result != 0)
    return fail("reserve its room");
  position_ = bytes;
  return Error::success();
}

Error AtomicFile::padTo(uint64_t position) {
  static constexpr uint8_t kZeros[4096] = {};
  while (position_ < position)
    if (Error error = write(
            ArrayRef<uint8_t>(kZeros, std::min<uint64_t>(position - position_, sizeof(kZeros)))))
      return error;
  return Error::success();
}

Error AtomicFile::commit(Durability durability) {
  if (durability == Durability::Flushed && fsync(fd_) != 0)
    return fail("flush");
  if (!isNamed_) {
    sys::RemoveFileOnSignal(temporary_);
    if (linkat(AT_FDCWD, temporaryPath().c_str(), AT_FDCWD, temporary_.c_str(),
               AT_SYMLINK_FOLLOW) != 0)
      return fail("name");
    isNamed_ = true;
  }
  if (rename(temporary_.c_str(), target_.c_str()) != 0)
    return fail("rename onto");
  sys::DontRemoveFileOnSignal(temporary_);
  close(std::exchange(fd_, -1));
  if (durability != Durability::Flushed)
    return Error::success();
  SmallString<128> directory = sys::path::parent_path(target_);
  const int fd = open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd >= 0) {
    fsync(fd); // best effort: some file systems refuse it on directories
    close(fd);
  }
  return Error::success();
}

Error moeplan::compiler::writeTextFile(StringRef target, StringRef text) {
  auto file = AtomicFile::create(target);
  if (!file)
    return file.takeError();
  if (Error error = file->write({reinterpret_cast<const uint8_t *>(text.data()), text.size()}))
    return error;
  return file->commit();
}
