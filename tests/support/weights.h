// Weights of random numbers in any format, for tests of kernels.
#pragma once

#include "formats.h"

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

namespace moeplan::testing {

/// Uniform numbers in [-1, 1), the same on every machine.
class RandomNumbers {
public:
  explicit RandomNumbers(uint64_t seed) : random_(seed) {}
  uint64_t below(uint64_t bound) { return random_() % bound; }
  float next() { return float(int64_t(random_() >> 40) - (1 << 23)) * 0x1p-23f; }
  std::vector<float> floats(size_t count);

private:
  std::mt19937_64 random_;
};

/// A matrix in one of the weight formats, in memory that ends where it does: reading on faults.
struct Weights {
  Weights(RandomNumbers &random, int64_t rows, int64_t columns, moeplan_format format);
  void *data() const { return bytes.get(); }
  /// By the layout's own scalar code (schemas/packing.h), which no kernel shares.
  float at(int64_t row, int64_t column) const { return elements[size_t(row * columns + column)]; }
  /// The zero of the element's group times its scale; 0 where the format has none.
  float offsetAt(int64_t row, int64_t column) const;
  /// The element's scale; 0 where the format has none.
  float scaleAt(int64_t row, int64_t column) const;

  int64_t rows, columns;
  moeplan_format format;
  std::shared_ptr<char> bytes;
  std::vector<float> elements, offsets, scales;
};

} // namespace moeplan::testing
