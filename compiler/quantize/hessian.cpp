#include "compiler/quantize/hessian.h"

#include "compiler/quantize/lanes.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace moeplan::compiler;

namespace {

/// Square, row-major, double.
struct Matrix {
  explicit Matrix(uint64_t size) : size(size), values(size * size) {}
  double *row(uint64_t i) { return values.data() + i * size; }
  uint64_t size;
  std::vector<double> values;
};

/// y -= factor * x: the only inner loop here. No sum is reordered by vectors.
MOEPLAN_MULTIVERSION void subtractScaled(double *__restrict y, const double *__restrict x,
                                         double factor, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i)
    y[i] -= factor * x[i];
}

/// A = R^T R with R upper triangular, in place; the lower triangle is left as it was.
/// Right-looking: row i of R, then the rank-one update of what is below.
void factorUpper(Matrix &a) {
  const uint64_t n = a.size;
  for (uint64_t i = 0; i < n; ++i) {
    double *row = a.row(i);
    const double pivot = std::sqrt(std::max(row[i], 1e-300));
    for (uint64_t j = i; j < n; ++j)
      row[j] /= pivot;
    for (uint64_t k = i + 1; k < n; ++k)
      subtractScaled(a.row(k) + k, row + k, row[k], n - k);
  }
}

/// The upper triangular U with U^T U = A^-1 that GPTQ walks along (Frantar et al., arXiv
/// 2210.17323, algorithm 1), its rows divided by their diagonal: only these ratios are used. With J
/// the reversal of rows and columns and J A J = R^T R, A^-1 = (J R^-1 J)(J R^-1 J)^T and so U = (J
/// R^-1 J)^T: one factorisation and one triangular inverse instead of two factorisations and a full
/// inverse. All of it happens in `a`: a block may have a gigabyte.
void inverseFactor(Matrix &a, std::vector<float> &out) {
  const uint64_t n = a.size;
  std::reverse(a.values.begin(), a.values.end());
  factorUpper(a);
  // Rows of R^-1, upper triangular, from the last: R^-1[i] = (e_i - sum_j>i R[i][j] R^-1[j]) /
  // R[i][i].
  std::vector<double> factors(n);
  for (uint64_t i = n; i-- > 0;) {
    double *row = a.row(i);
    std::copy(row + i, row + n, factors.begin() + std::ptrdiff_t(i));
    std::fill(row + i, row + n, 0.0);
    row[i] = 1;
    for (uint64_t j = i + 1; j < n; ++j)
      subtractScaled(row + j, a.row(j) + j, factors[j], n - j);
    for (uint64_t j = i; j < n; ++j)
      row[j] /= factors[i];
  }
  out.assign(n * n, 0);
  for (uint64_t i = 0; i < n; ++i)
    for (uint64_t j = i; j < n; ++j)
      out[i * n + j] = float(a.row(n - 1 - j)[n - 1 - i] / a.row(n - 1 - i)[n - 1 - i]);
}

} // namespace

uint64_t moeplan::compiler::momentCount(uint64_t columns, uint64_t block) {
  const uint64_t whole = columns / block, rest = columns % block;
  return whole * (block * (block + 1) / 2) + rest * (rest + 1) / 2;
}

std::vector<float> moeplan::compiler::diagonalOf(const SecondMoments &moments) {
  std::vector<float> diagonal;
  diagonal.reserve(moments.columns);
  const float *next = moments.values;
  for (uint64_t k = 0; k < moments.columns; ++k) {
    next += k % moments.block; // to the end of the row of the triangle
    diagonal.push_back(*next++);
  }
  return diagonal;
}

FactoredHessian::FactoredHessian(const SecondMoments &moments, uint64_t tokens) {
  const float *next = moments.values;
  for (uint64_t begin = 0; begin < moments.columns; begin += moments.block) {
    const uint64_t n = std::min<uint64_t>(moments.block, moments.columns - begin);
    HessianBlock block{begin, n, std::vector<float>(n * n), {}, std::vector<uint32_t>(n)};
    double trace = 0;
    for (uint64_t i = 0; i < n; ++i)
      for (uint64_t j = 0; j <= i; ++j) {
        block.matrix[i * n + j] = block.matrix[j * n + i] = *next++;
        if (i == j)
          trace += block.matrix[i * n + i];
      }
    const double mean = std::max(trace / double(n), 1e-30);
    const float damping =
        float(0.01 * mean * (1 + double(n) / double(std::max<uint64_t>(tokens, 1))));
    for (uint64_t i = 0; i < n; ++i)
      block.matrix[i * n + i] += damping;
    std::iota(block.order.begin(), block.order.end(), 0u);
    std::stable_sort(block.order.begin(), block.order.end(), [&](uint32_t a, uint32_t b) {
      return block.matrix[a * n + a] > block.matrix[b * n + b];
    });
    Matrix ordered(n);
    for (uint64_t i = 0; i < n; ++i)
      for (uint64_t j = 0; j < n; ++j)
        ordered.row(i)[j] = block.matrix[block.order[i] * n + block.order[j]];
    inverseFactor(ordered, block.feedback);
    blocks_.push_back(std::move(block));
  }
}
