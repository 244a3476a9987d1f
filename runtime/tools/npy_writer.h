// Writes a matrix in NumPy's file format.
#pragma once

#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>

namespace moeplan::tools {

/// A float32 [rows, columns] .npy file (format 1.0, C order, little endian), written row by row to
/// a temporary file beside `path`, which commit() puts in the place of `path`. What is not
/// committed is removed. A `path` that exists and is no regular file, a device for example, is
/// refused. Each function throws a Failure that names the file.
class NpyWriter {
public:
  NpyWriter(std::string path, size_t rows, size_t columns);
  ~NpyWriter();
  NpyWriter(const NpyWriter &) = delete;
  NpyWriter &operator=(const NpyWriter &) = delete;

  /// `row` is float32 [columns].
  void writeRow(const float *row);
  /// All rows must have been written.
  void commit();

private:
  void write(const void *data, size_t bytes);
  [[noreturn]] void fail() const;

  struct Closer {
    void operator()(std::FILE *file) const { (void)std::fclose(file); }
  };

  std::string path_;
  std::string temporaryPath_;
  std::unique_ptr<std::FILE, Closer> file_;
  size_t columns_;
  size_t rowsMissing_;
};

} // namespace moeplan::tools
