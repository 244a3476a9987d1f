#include "runtime/tools/npy_writer.h"

#include "runtime/tools/common.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <sys/stat.h>
#include <unistd.h>

namespace moeplan::tools {

static_assert(std::endian::native == std::endian::little, "rows are written as they lie in memory");

NpyWriter::NpyWriter(std::string path, size_t rows, size_t columns)
    : path_(std::move(path)), temporaryPath_(path_ + ".tmp." + std::to_string(getpid())),
      columns_(columns), rowsMissing_(rows) {
  struct stat status{};
  if (stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    throw Failure(path_ + ": not a regular file");
  file_.reset(std::fopen(temporaryPath_.c_str(), "wbxe"));
  if (!file_)
    fail();
  // https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: magic, version, uint16
  // length of the header, the header, padded with spaces to a multiple of 64 and closed by '\n'.
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(rows) + ", " + std::to_string(columns) + "), }";
  constexpr size_t preambleBytes = 10;
  header.append(63 - (preambleBytes + header.size()) % 64, ' ');
  header += '\n';
  const auto length = static_cast<unsigned>(header.size());
  const char preamble[preambleBytes] = {'\x93',
                                        'N',
                                        'U',
                                        'M',
                                        'P',
                                        'Y',
                                        1,
                                        0,
                                        static_cast<char>(length & 0xff),
                                        static_cast<char>(length >> 8)};
  write(preamble, preambleBytes);
  write(header.data(), header.size());
}

NpyWriter::~NpyWriter() {
  if (file_)
    (void)unlink(temporaryPath_.c_str());
}

void NpyWriter::writeRow(const float *row) {
  if (rowsMissing_ == 0)
    throw std::logic_error("more rows than the .npy header states");
  write(row, columns_ * sizeof(float));
  --rowsMissing_;
}

void NpyWriter::commit() {
  if (rowsMissing_ != 0)
    throw std::logic_error("fewer rows than the .npy header states");
  if (std::fflush(file_.get()) != 0 || fsync(fileno(file_.get())) != 0)
    fail();
  if (std::rename(temporaryPath_.c_str(), path_.c_str()) != 0)
    fail();
  file_.reset();
}

void NpyWriter::write(const void *data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_.get()) != bytes)
    fail();
}

void NpyWriter::fail() const {
  const int error = errno;
  if (file_)
    (void)unlink(temporaryPath_.c_str());
  throw Failure(path_ + ": " + std::strerror(error));
}

} // namespace moeplan::tools
