#include "runtime/support/pending_file.h"

#include "runtime/support/units.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <utility>

namespace moeplan {

namespace {

std::string directoryOf(const std::string &path) {
  const std::string directory = std::filesystem::path(path).parent_path();
  return directory.empty() ? "." : directory;
}

int openNameless(const std::string &directory) {
  return open(directory.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0666);
}

std::string descriptorPath(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

/// Gives a file of openNameless() its name; false, with errno, where that is not possible.
bool name(int fd, const std::string &path) {
  return linkat(AT_FDCWD, descriptorPath(fd).c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) ==
         0;
}

/// Whether a file without a name can be made in `directory` and be given one, `path`: better known
/// before hours of writing than behind them.
bool canName(const std::string &directory, const std::string &path) {
  const int fd = openNameless(directory);
  if (fd < 0)
    return false;
  const bool named = name(fd, path);
  if (named)
    unlink(path.c_str());
  close(fd);
  return named;
}

} // namespace

Status PendingFile::fail(const char *what) const {
  return ioError(target_ + ": cannot " + what + ": " + std::strerror(errno));
}

Result<PendingFile> PendingFile::create(std::string target) {
  static std::atomic<uint64_t> count{0};
  PendingFile file;
  file.target_ = std::move(target);
  file.temporary_ =
      file.target_ + ".tmp." + std::to_string(getpid()) + "." + std::to_string(count++);
  struct stat info{};
  if (stat(file.target_.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    return ioError(file.target_ + ": exists and is not a regular file");
  const std::string directory = directoryOf(file.target_);
  if (canName(directory, file.temporary_))
    file.fd_ = openNameless(directory);
  if (file.fd_ >= 0)
    return file;
  file.fd_ = open(file.temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file.fd_ < 0)
    return file.fail("create");
  file.isNamed_ = true;
  return file;
}

std::string PendingFile::temporaryPath() const {
  return isNamed_ ? temporary_ : descriptorPath(fd_);
}

PendingFile::~PendingFile() {
  if (fd_ < 0)
    return;
  close(fd_);
  if (isNamed_)
    unlink(temporary_.c_str());
}

PendingFile::PendingFile(PendingFile &&other) noexcept
    : target_(std::move(other.target_)), temporary_(std::move(other.temporary_)),
      isNamed_(other.isNamed_), fd_(std::exchange(other.fd_, -1)), position_(other.position_) {}

Status PendingFile::checkSpace(uint64_t bytes) const {
  struct statvfs info{};
  if (fstatvfs(fd_, &info) != 0)
    return {};
  const uint64_t available = uint64_t(info.f_bavail) * info.f_frsize;
  if (bytes <= available)
    return {};
  return exhausted(target_ + ": takes " + formatBytes(static_cast<double>(bytes)) +
                   ", its file system has " + formatBytes(static_cast<double>(available)) +
                   " left");
}

Status PendingFile::reserve(uint64_t bytes) {
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
  return {};
}

Status PendingFile::writeAt(uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return fail("write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return {};
}

Status PendingFile::write(std::span<const std::byte> bytes) {
  MOEPLAN_TRY(writeAt(position_, bytes));
  position_ += bytes.size();
  return {};
}

Status PendingFile::commit(Durability durability) {
  if (durability == Durability::flushed && fsync(fd_) != 0)
    return fail("flush");
  if (!isNamed_) {
    if (!name(fd_, temporary_))
      return fail("name");
    isNamed_ = true;
  }
  if (rename(temporary_.c_str(), target_.c_str()) != 0)
    return fail("rename onto");
  close(std::exchange(fd_, -1));
  if (durability != Durability::flushed)
    return {};
  const int directory = open(directoryOf(target_).c_str(), O_RDONLY | O_DIRECTORY);
  if (directory >= 0) {
    fsync(directory); // best effort: some file systems refuse it on directories
    close(directory);
  }
  return {};
}

} // namespace moeplan
