#include "npy.h"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are copied as they are");

namespace moeplan::testing {

namespace {

// Magic, format version 1.0, then the length of the header text in two little-endian bytes.
constexpr char kMagic[] = "\x93NUMPY\x01";
constexpr size_t kMagicBytes = sizeof(kMagic); // the final NUL is the minor version
constexpr size_t kPreambleBytes = kMagicBytes + 2;
constexpr size_t kAlignment = 64; // of the data in the file
constexpr char kHeaderFormat[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }";

} // namespace

Matrix readNpy(const std::filesystem::path &path) {
  std::ifstream stream(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(stream), {});
  auto require = [&](bool condition, const char *what) {
    if (!condition)
      throw std::runtime_error(path.string() + ": " + what);
  };
  require(stream && bytes.size() >= kPreambleBytes &&
              std::memcmp(bytes.data(), kMagic, kMagicBytes) == 0,
          "a .npy file of format 1.0 expected");
  size_t headerBytes = static_cast<unsigned char>(bytes[kMagicBytes]) |
                       static_cast<size_t>(static_cast<unsigned char>(bytes[kMagicBytes + 1])) << 8;
  require(bytes.size() >= kPreambleBytes + headerBytes, "the header is cut off");
  Matrix matrix;
  require(std::sscanf(bytes.substr(kPreambleBytes, headerBytes).c_str(), kHeaderFormat,
                      &matrix.rows, &matrix.columns) == 2,
          "a two-dimensional float32 array in C order expected");
  size_t start = kPreambleBytes + headerBytes, elements = 0;
  require(!__builtin_mul_overflow(matrix.rows, matrix.columns, &elements) &&
              elements == (bytes.size() - start) / sizeof(float) &&
              (bytes.size() - start) % sizeof(float) == 0,
          "the data have another size than the shape says");
  matrix.values.resize(elements);
  std::memcpy(matrix.values.data(), bytes.data() + start, elements * sizeof(float));
  return matrix;
}

void writeNpy(const std::filesystem::path &path, const Matrix &matrix) {
  char text[128];
  std::snprintf(text, sizeof(text), kHeaderFormat, matrix.rows, matrix.columns);
  std::string header = text;
  while ((kPreambleBytes + header.size() + 1) % kAlignment != 0)
    header += ' ';
  header += '\n';
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(kMagic, kMagicBytes);
  stream.put(char(header.size() & 0xff)).put(char(header.size() >> 8));
  stream << header;
  stream.write(reinterpret_cast<const char *>(matrix.values.data()),
               std::streamsize(matrix.values.size() * sizeof(float)));
  if (!stream.flush())
    throw std::runtime_error("cannot write " + path.string());
}

} // namespace moeplan::testing
