#include "runtime/support/mapped_file.h"

#include "runtime/support/fault.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace moeplan {

namespace {

int64_t nanoseconds(const timespec &time) {
  return int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

/// The whole pages that hold any of `range` of a mapping at `base`: where they begin, their bytes.
std::pair<std::byte *, size_t> pagesOf(const std::byte *base, std::span<const std::byte> range) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(range.data() - base);
  const size_t begin = offset / page * page;
  return {const_cast<std::byte *>(base) + begin, offset + range.size() - begin};
}

} // namespace

Result<MappedFile> MappedFile::open(const std::string &path) {
  // Without O_NONBLOCK, a FIFO in place of the file would hang the process.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const bool missing = errno == ENOENT;
    return Status(missing ? MOEPLAN_NOT_FOUND : MOEPLAN_IO_ERROR,
                  path + ": " + std::strerror(errno));
  }
  struct stat info{};
  MappedFile file;
  Status failure;
  if (fstat(fd, &info) != 0)
    failure = ioError(path + ": " + std::strerror(errno));
  else if (!S_ISREG(info.st_mode))
    failure = ioError(path + ": a regular file expected");
  else if (info.st_size > 0) {
    file.stamp_ = {info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size),
                   nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
    const auto size = static_cast<size_t>(info.st_size);
    void *data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
      failure = ioError(path + ": cannot map: " + std::strerror(errno));
    else
      file.bytes_ = {static_cast<const std::byte *>(data), size};
  }
  close(fd);
  if (!failure.ok())
    return failure;
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty())
    munmap(const_cast<std::byte *>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile &&other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), stamp_(other.stamp_) {}

MappedFile &MappedFile::operator=(MappedFile &&other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(stamp_, other.stamp_);
  return *this;
}

void MappedFile::readAhead(std::span<const std::byte> range) const {
  const auto [start, length] = pagesOf(bytes_.data(), range);
  (void)madvise(start, length, MADV_WILLNEED); // advice
}

Status MappedFile::bringIn(std::span<const std::byte> range) const {
  const auto [start, length] = pagesOf(bytes_.data(), range);
  if (faultAt(FaultPoint::read))
    return ioError("cannot read the file: injected");
#ifdef MADV_POPULATE_READ
  // Says so where the pages cannot be read; touching them would end the process.
  while (madvise(start, length, MADV_POPULATE_READ) != 0) {
    if (errno == EINTR || errno == EAGAIN)
      continue;
    if (errno == EINVAL || errno == ENOSYS) // older than Linux 5.14
      break;
    return ioError(std::string("cannot read the file: ") + std::strerror(errno));
  }
#endif
  return {};
}

void MappedFile::release(std::span<const std::byte> range) const {
  // The mapping begins at a page, so pages are counted from there.
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(range.data() - bytes_.data());
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + range.size()) / page * page;
  // Advice: nothing depends on its success.
  if (begin < end)
    (void)madvise(const_cast<std::byte *>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
}

} // namespace moeplan
