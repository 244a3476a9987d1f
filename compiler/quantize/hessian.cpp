#include "compiler/quantize/hessian.h"

#include <algorithm>
#include <numeric>

using namespace moeplan::compiler;

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

FactoredHessian::FactoredHessian(const SecondMoments &moments, uint64_t tokens,
                                 llvm::ThreadPoolInterface &threads) {
  const float *triangle = moments.values;
  for (uint64_t begin = 0; begin < moments.columns; begin += moments.block) {
    const uint64_t n = std::min<uint64_t>(moments.block, moments.columns - begin);
    HessianBlock block{begin, n, {}, {}, std::vector<uint32_t>(n)};
    std::vector<float> diagonal = diagonalOf({uint32_t(n), uint32_t(n), triangle});
    const double trace = std::accumulate(diagonal.begin(), diagonal.end(), 0.0);
    const double mean = std::max(trace / double(n), 1e-30);
    const float damping =
        float(0.01 * mean * (1 + double(n) / double(std::max<uint64_t>(tokens, 1))));
    for (float &value : diagonal)
      value += damping;
    std::iota(block.order.begin(), block.order.end(), 0u);
    std::stable_sort(block.order.begin(), block.order.end(),
                     [&](uint32_t a, uint32_t b) { return diagonal[a] > diagonal[b]; });
    block.feedback = feedbackFactor({n, triangle, block.order.data(), damping}, threads);
    // Last: the factor was made in more memory than this takes.
    block.matrix.resize(n * n);
    for (uint64_t i = 0; i < n; ++i) {
      for (uint64_t j = 0; j < i; ++j)
        block.matrix[i * n + j] = block.matrix[j * n + i] = *triangle++;
      ++triangle;
      block.matrix[i * n + i] = diagonal[i];
    }
    blocks_.push_back(std::move(block));
  }
}
