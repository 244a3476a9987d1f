#include "runtime/support/file_reader.h"

#include "artifact_header.h"
#include "runtime/support/fault.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace moeplan {

FileReader::Descriptor::~Descriptor() {
  if (fd_ >= 0)
    close(fd_);
}

Status FileReader::open(size_t index, Mode mode) {
  const FilePiece &piece = file_->pieces()[index];
  Descriptor &file = opened_[slotOf(index, mode)];
  if (file.get() >= 0)
    return {};
  const bool direct = mode == Mode::direct;
  Descriptor opened(
      ::open(piece.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (direct ? O_DIRECT : 0)));
  if (opened.get() < 0 && direct && errno == EINVAL)
    return unsupported("its file system has no direct reads").withContext(piece.path);
  struct stat info{};
  if (opened.get() < 0 || fstat(opened.get(), &info) != 0)
    return ioError(std::strerror(errno)).withContext(piece.path);
  if (info.st_dev != piece.stamp.device || info.st_ino != piece.stamp.inode)
    return ioError("another file has taken its place since it was opened").withContext(piece.path);
  file = std::move(opened);
  return {};
}

Status FileReader::openAll(Mode mode) {
  for (size_t index = 0; index < file_->pieces().size(); ++index)
    MOEPLAN_TRY(open(index, mode));
  return {};
}

Status FileReader::read(uint64_t begin, std::span<std::byte> out) const {
  for (size_t i = 0; i < file_->pieces().size() && !out.empty(); ++i) {
    const FilePiece &piece = file_->pieces()[i];
    if (begin < piece.begin || begin >= piece.begin + piece.bytes)
      continue;
    const uint64_t bytes = std::min<uint64_t>(out.size(), piece.begin + piece.bytes - begin);
    MOEPLAN_TRY(readPiece(i, piece.offset + begin - piece.begin, out.data(), bytes, Mode::cached)
                    .withContext(piece.path));
    begin += bytes;
    out = out.subspan(bytes);
  }
  return {};
}

Status FileReader::readPiece(size_t index, uint64_t offset, std::byte *target, uint64_t bytes,
                             Mode mode) const {
  const bool direct = mode == Mode::direct;
  // The last page of a file is cut off.
  const uint64_t asked =
      direct ? (bytes + kMappedAlignment - 1) / kMappedAlignment * kMappedAlignment : bytes;
  if (faultAt(FaultPoint::read))
    return ioError("cannot read the file: injected");
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t count = pread(opened_[slotOf(index, mode)].get(), target + done, asked - done,
                                static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0 && direct && errno == EINVAL)
      return unsupported("its file system has no direct reads of pages");
    if (count <= 0)
      return ioError(std::string("cannot read the file: ") +
                     (count == 0 ? "it has become shorter" : std::strerror(errno)));
    done += static_cast<uint64_t>(count);
  }
  return {};
}

} // namespace moeplan
