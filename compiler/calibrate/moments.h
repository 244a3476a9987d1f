// Collecting second moments of activations while a model runs.
#pragma once

#include "runtime/artifact/artifact.h"
#include "runtime/executor/executor.h"

#include "llvm/Support/ThreadPool.h"

#include <cstdint>
#include <vector>

namespace moeplan::compiler {

/// The sum of x x^T over vectors x of `columns` numbers, in diagonal blocks of `block` columns.
class MomentSum {
public:
  MomentSum(uint64_t columns, uint64_t block);

  /// Adds `count` vectors: row rows[i] of `values` (float32 [..][stride]) times factors[i]. Row i
  /// itself where `rows` is null. The sum's order is that of the calls and of the vectors in them.
  void add(const float *values, uint64_t stride, const uint32_t *rows, const float *factors,
           uint64_t count);
  /// Whether no vector held a NaN or an infinity.
  bool isFinite() const;
  /// The lower triangles, as in SecondMoments.
  std::vector<float> triangles() const;

  uint64_t columns() const { return columns_; }
  uint64_t block() const { return block_; }
  /// Bytes of one such sum in memory.
  static uint64_t bytes(uint64_t columns, uint64_t block);

private:
  uint64_t columns_, block_;
  std::vector<float> sums_; ///< blocks of [block][padded block], lower triangle valid
};

/// Watches a session and sums up what reaches each expert. The session must run programs of the
/// artifact given here, whose expert kernels must read f32 weights among others: so that what they
/// multiply is there in float32.
class MomentCollector : public DispatchObserver {
public:
  struct Expert {
    Expert(uint64_t hiddenSize, uint64_t intermediateSize, uint64_t inputBlock,
           uint64_t hiddenBlock)
        : input(hiddenSize, inputBlock), hidden(intermediateSize, hiddenBlock) {}
    uint64_t tokens = 0;
    double routingWeight = 0;
    MomentSum input, hidden; ///< each vector times its routing weight
  };

  /// Blocks as in SecondMoments.
  MomentCollector(const Artifact &artifact, uint64_t inputBlock, uint64_t hiddenBlock,
                  llvm::ThreadPoolInterface &threads);
  void afterDispatch(const fb::Dispatch &dispatch, std::span<void *const> operands,
                     const moeplan_step &step) override;

  const std::vector<Expert> &experts() const { return experts_; } ///< layer first

private:
  /// What of a kernel of the artifact matters here.
  struct KernelRole {
    int slotWeights = -1; ///< its operand that gets the slots' weights; -1: none
    bool isGateUp = false;
    uint64_t inputStride = 0, hiddenStride = 0; ///< floats between rows of x and of h
  };

  std::vector<KernelRole> roles_; ///< of the artifact's kernels
  uint32_t numExperts_;
  llvm::ThreadPoolInterface &threads_;
  std::vector<Expert> experts_;
  const float *slotWeight_ = nullptr; ///< of the layer under way
};

/// The largest blocks, at most `columns` wide, with which all sums of a model fit in `memoryLimit`
/// bytes: all columns, or a multiple of 128, or 1 (the diagonal). The smallest there is where none
/// fits.
struct MomentBlocks {
  uint64_t input, hidden;
};
MomentBlocks chooseMomentBlocks(uint64_t hiddenSize, uint64_t intermediateSize, uint64_t experts,
                                uint64_t memoryLimit);

} // namespace moeplan::compiler
