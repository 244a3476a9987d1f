// The second moments of a linear's input, and what error feedback needs of them.
#pragma once

#include "compiler/quantize/feedback.h"

#include <cstdint>
#include <vector>

namespace moeplan::compiler {

/// Sum over tokens of x x^T, as the diagonal blocks of `block` columns: all of it where `block` is
/// `columns`, the diagonal alone where it is 1. Block b is the lower triangle, row by row, of
/// columns b * block and on; the last may be smaller.
struct SecondMoments {
  uint32_t columns = 0, block = 0;
  const float *values = nullptr; ///< borrowed; [momentCount(columns, block)]
};
/// Numbers that a SecondMoments has.
uint64_t momentCount(uint64_t columns, uint64_t block);
/// x x^T's diagonal, [columns].
std::vector<float> diagonalOf(const SecondMoments &moments);

/// A block of the Hessian, damped, with the factor that error feedback walks along.
struct HessianBlock {
  uint64_t begin, size;
  std::vector<float> matrix;   ///< [size][size]
  std::vector<float> feedback; ///< feedbackFactor() of it in `order`
  std::vector<uint32_t> order; ///< by falling diagonal: columns that matter are rounded first

  /// What the columns order[i + 1 ...] make up for per unit of the error of order[i], [size - 1 -
  /// i].
  const float *feedbackRow(uint64_t i) const { return feedback.data() + feedbackOffset(size, i); }
};

/// Factored second moments. A column that no activation ever reached gets the damping alone.
class FactoredHessian {
public:
  /// `tokens`: how many the moments were summed over. Damping is 1 % of the mean diagonal, more
  /// where there are fewer tokens than columns in a block. A block of n columns takes 6 n^2 bytes,
  /// and as much while it is made. Does not depend on the number of threads.
  FactoredHessian(const SecondMoments &moments, uint64_t tokens,
                  llvm::ThreadPoolInterface &threads);
  const std::vector<HessianBlock> &blocks() const { return blocks_; }

private:
  std::vector<HessianBlock> blocks_;
};

} // namespace moeplan::compiler
