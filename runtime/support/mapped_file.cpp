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

/// A regular file that is open, and its stamp.
class OpenFile {
public:
  static Result<OpenFile> open(const std::string &path) {
    // Without O_NONBLOCK, a FIFO in place of the file would hang the process.
    OpenFile file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.fd_ < 0) {
      const bool missing = errno == ENOENT;
      return Status(missing ? MOEPLAN_NOT_FOUND : MOEPLAN_IO_ERROR,
                    path + ": " + std::strerror(errno));
    }
    struct stat info{};
    if (fstat(file.fd_, &info) != 0)
      return ioError(path + ": " + std::strerror(errno));
    if (!S_ISREG(info.st_mode))
      return ioError(path + ": a regular file expected");
    file.stamp_ = {info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size),
                   nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
    return file;
  }
  ~OpenFile() {
    if (fd_ >= 0)
      close(fd_);
  }
  OpenFile(OpenFile &&other) noexcept : fd_(std::exchange(other.fd_, -1)), stamp_(other.stamp_) {}
  OpenFile &operator=(OpenFile &&) = delete;

  int fd() const { return fd_; }
  const FileStamp &stamp() const { return stamp_; }

private:
  explicit OpenFile(int fd) : fd_(fd) {}
  int fd_;
  FileStamp stamp_;
};

} // namespace

Result<MappedFile> MappedFile::open(const std::string &path) {
  MOEPLAN_ASSIGN(const OpenFile opened, OpenFile::open(path));
  MappedFile file;
  const uint64_t size = opened.stamp().bytes;
  file.pieces_.push_back({path, opened.stamp(), 0, 0, size});
  if (size == 0)
    return file;
  void *data = mmap(nullptr, size, PROT_READ, MAP_SHARED, opened.fd(), 0);
  if (data == MAP_FAILED)
    return ioError(path + ": cannot map: " + std::strerror(errno));
  file.bytes_ = {static_cast<const std::byte *>(data), size};
  return file;
}

Result<MappedFile> MappedFile::join(std::vector<FilePiece> pieces) {
  uint64_t size = 0;
  for (FilePiece &piece : pieces) {
    piece.begin = size;
    size += piece.bytes;
  }
  // Addresses for all, which the pieces then take over.
  void *data = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    return ioError(std::string("cannot map: ") + std::strerror(errno));
  MappedFile file;
  file.bytes_ = {static_cast<const std::byte *>(data), size};
  for (const FilePiece &piece : pieces) {
    MOEPLAN_ASSIGN(const OpenFile opened, OpenFile::open(piece.path));
    if (opened.stamp() != piece.stamp)
      return ioError(piece.path + ": has changed while it was opened");
    if (mmap(static_cast<std::byte *>(data) + piece.begin, piece.bytes, PROT_READ,
             MAP_SHARED | MAP_FIXED, opened.fd(), static_cast<off_t>(piece.offset)) == MAP_FAILED)
      return ioError(piece.path + ": cannot map: " + std::strerror(errno));
  }
  file.pieces_ = std::move(pieces);
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty())
    munmap(const_cast<std::byte *>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile &&other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), pieces_(std::move(other.pieces_)) {}

MappedFile &MappedFile::operator=(MappedFile &&other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(pieces_, other.pieces_);
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
