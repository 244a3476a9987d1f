// Matrices in NumPy's file format, as the golden files and `--logits-out` have them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

namespace moeplan::testing {

/// Row-major float32.
struct Matrix {
  size_t rows = 0;
  size_t columns = 0;
  std::vector<float> values;
};

/// Reads a two-dimensional little-endian float32 array in C order, .npy format 1.0. Throws
/// std::runtime_error on anything else.
/// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
Matrix readNpy(const std::filesystem::path &path);
void writeNpy(const std::filesystem::path &path, const Matrix &matrix);

} // namespace moeplan::testing
