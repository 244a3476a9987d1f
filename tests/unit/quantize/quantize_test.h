// Weights to quantise, and what is lost on the way.
#pragma once

#include "compiler/quantize/tensor.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace moeplan::testing {

/// Numbers as a trained weight has them: nearly normal, with a few outliers. The same everywhere.
std::vector<float> weightLikeNumbers(uint64_t count, uint64_t seed);

/// Second moments of activations that are correlated and differ in size from column to column.
std::vector<float> activationMoments(uint64_t columns, uint64_t block, uint64_t seed);

/// A float32 weight and its quantisation.
struct Quantization {
  Quantization(std::vector<float> values, uint64_t rows, uint64_t columns)
      : values(std::move(values)), rows(rows), columns(columns) {}

  compiler::TensorView view() const {
    return {"weight", compiler::DType::F32, reinterpret_cast<const uint8_t *>(values.data()), rows,
            columns};
  }
  /// The message of the failure, or "".
  std::string run(std::string_view format, std::string_view quantizer,
                  const compiler::Calibration &calibration = {}, unsigned threads = 1);
  float at(uint64_t row, uint64_t column) const;
  /// Codes, scales and zeros, one behind the other: the same in every layout.
  std::vector<uint8_t> numbers() const;
  /// Mean squared error.
  double error() const;

  std::vector<float> values;
  uint64_t rows, columns;
  const FormatInfo *format = nullptr;
  std::vector<uint8_t> bytes;
};

} // namespace moeplan::testing
