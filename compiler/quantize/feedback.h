// The factor that error feedback walks along.
#pragma once

#include <cstdint>
#include <vector>

namespace llvm {
class ThreadPoolInterface;
}

namespace moeplan::compiler {

/// A symmetric matrix, given by its lower triangle row by row in single precision, with `damping`
/// added to its diagonal and its rows and columns put in `order`.
struct OrderedMatrix {
  uint64_t size;
  const float *triangle; ///< borrowed; [size * (size + 1) / 2]
  const uint32_t *order; ///< borrowed; [size], a permutation
  float damping;
  /// Of row and column `order[i]`, `order[j]`.
  double at(uint64_t i, uint64_t j) const {
    const uint64_t a = order[i], b = order[j];
    if (a == b)
      return double(triangle[a * (a + 3) / 2] + damping);
    return double(a > b ? triangle[a * (a + 1) / 2 + b] : triangle[b * (b + 1) / 2 + a]);
  }
};

/// The strictly upper triangle of the unit triangular N in H = N E N^T, E diagonal, row after row
/// without what is below: feedbackOffset(size, size) numbers. A column's error, times row i of N,
/// is what the columns behind it make up for: the feedback of GPTQ without the inverse that it
/// takes from there (Chee et al., QuIP, arXiv 2307.13304, theorem 6 and section 3.1).
///
/// In double precision, tile by tile on all threads, in half the memory of a square. The
/// result does not depend on the number of threads. `matrix` must be positive definite.
std::vector<float> feedbackFactor(const OrderedMatrix &matrix, llvm::ThreadPoolInterface &threads);

/// Where row `i` of such a triangle begins, with the number for column i + 1.
inline uint64_t feedbackOffset(uint64_t size, uint64_t i) { return i * (2 * size - i - 1) / 2; }

} // namespace moeplan::compiler
