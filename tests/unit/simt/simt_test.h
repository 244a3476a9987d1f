// Kernels of kernels/cuda on the CPU, and what is needed to compare them with float64.
#pragma once

#include "kernels.cuh"
#include "tests/simt/executor.h"
#include "tests/support/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace moeplan::testing {

/// Runs `kernel` in each order of the threads, on a fresh copy of `outputs` (vectors) each time:
/// the same bytes must come out. They are left in `outputs`.
template <typename Kernel, typename... Outputs>
void runInEveryOrder(unsigned threads, unsigned blocks, unsigned tokens, Kernel &&kernel,
                     std::vector<Outputs> &...outputs) {
  const auto before = std::make_tuple(outputs...);
  auto first = before;
  for (const simt::Order order :
       {simt::Order::Forward, simt::Order::Backward, simt::Order::Shuffled}) {
    std::tie(outputs...) = before;
    ASSERT_EQ(simt::run({{blocks, tokens, 1}, threads, order}, kernel), "");
    if (order == simt::Order::Forward)
      first = std::make_tuple(outputs...);
    else
      ASSERT_TRUE(first == std::make_tuple(outputs...)) << "depends on the order of the threads";
  }
}

/// The nearest bf16, which kernels round activations to.
inline double roundedToBf16(float value) { return __uint_as_float(toBf16(value) << 16); }

/// Row `row` of `w` times bf16 of x * scale (`scale` null: x), and in `magnitude` the sum of the
/// products' magnitudes, those of the codes and zeros that cancel included.
inline double dotProduct(const Weights &w, int64_t row, const float *x, const float *scale,
                         double &magnitude) {
  double sum = 0;
  magnitude = 0;
  for (int64_t k = 0; k < w.columns; ++k) {
    const double value = roundedToBf16(scale ? x[k] * scale[k] : x[k]);
    sum += double(w.at(row, k)) * value;
    // Codes below 8 bits carry 2^7 more until the zero takes it off.
    magnitude +=
        (std::fabs(w.at(row, k)) + 2 * std::fabs(w.offsetAt(row, k)) + 64 * w.scaleAt(row, k)) *
        std::fabs(value);
  }
  return sum;
}

/// The same as kernels for prompts compute it: of weights that are rounded to bf16, too, and of
/// `x`, which is bf16 already.
inline double roundedProduct(const Weights &w, int64_t row, const float *x, double &magnitude) {
  double sum = 0;
  magnitude = 0;
  for (int64_t k = 0; k < w.columns; ++k) {
    const double product = roundedToBf16(w.at(row, k)) * double(x[k]);
    sum += product;
    magnitude += std::fabs(product);
  }
  return sum;
}

/// Rows of activations that are bf16, as numbers and in the layout of kernels/cuda/rounded.cuh.
struct RoundedRows {
  RoundedRows(RandomNumbers &random, int64_t rows, int64_t features) {
    for (float value : random.floats(rows * features))
      numbers.push_back(float(roundedToBf16(value)));
    pack(features);
  }
  RoundedRows(std::vector<float> values, int64_t features) : numbers(std::move(values)) {
    pack(features);
  }
  std::vector<float> numbers;
  std::vector<uint16_t> packed;

private:
  void pack(int64_t features) {
    constexpr int kPlaces[4] = {0, 2, 1, 3};
    const int64_t stride = (features + 31) / 32 * 32;
    packed.resize(numbers.size() / features * stride);
    for (size_t i = 0; i < numbers.size(); ++i) {
      const int64_t column = int64_t(i) % features;
      packed[int64_t(i) / features * stride + column / 4 * 4 + kPlaces[column % 4]] =
          uint16_t(toBf16(numbers[i]));
    }
  }
};

/// 1 / sqrt(mean(x^2) + epsilon).
inline double normFactor(const float *x, int64_t features, double epsilon) {
  double squares = 0;
  for (int64_t i = 0; i < features; ++i)
    squares += double(x[i]) * x[i];
  return 1 / std::sqrt(squares / double(features) + epsilon);
}

/// Roundings of float32 sums of `columns` products: of a group, of the groups, of the warps.
inline double sumBound(int64_t columns, double magnitude) {
  return (double(columns) / 8 + 64) * 0x1p-24 * magnitude;
}

constexpr double kEpsilon = 1e-5;

/// For tests that are made for every format of matrices.
template <int F> struct Format {
  static constexpr int id = F;
};
using Formats =
    ::testing::Types<Format<2>, Format<3>, Format<4>, Format<5>, Format<6>, Format<7>, Format<8>,
                     Format<9>, Format<10>, Format<11>, Format<12>, Format<13>, Format<14>>;
struct FormatName {
  template <class F> static std::string GetName(int) {
    return std::string(findFormat(uint32_t(F::id))->name);
  }
};

} // namespace moeplan::testing
