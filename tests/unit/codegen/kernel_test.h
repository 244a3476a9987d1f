// Kernels compiled for each CPU level that this machine can run, and what is needed to compare them
// with their scalar references.
#pragma once

#include "compiler/codegen/kernel_library.h"
#include "cpu/kernels.h"
#include "formats.h"
#include "runtime/device/kernel_module.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace moeplan::testing {

using Constants = std::vector<std::pair<std::string, std::variant<int64_t, double>>>;

/// Half a unit in the last place of float32, relative: the error of one rounding.
constexpr double kUnitRoundoff = 0x1p-24;

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

/// A matrix in one of the weight formats.
struct Weights {
  Weights(RandomNumbers &random, int64_t rows, int64_t columns, moeplan_format format);
  const void *data() const { return bytes.data(); }
  /// By the layout's own scalar code (schemas/packing.h), which no kernel shares.
  float at(int64_t row, int64_t column) const;
  WeightShape shape() const;

  int64_t rows, columns;
  moeplan_format format;
  std::vector<char> bytes;
};

/// One kernel with its constants. The constants reach the reference as plain arguments.
class Kernel {
public:
  Kernel(moeplan_kernel_fn function) : function_(function) {}

  /// All tiles in one call.
  void run(std::vector<void *> bindings, const moeplan_step &step, uint64_t tiles) const {
    function_(bindings.data(), &step, 0, tiles);
  }
  /// The same in calls of one to three tiles, from the last to the first.
  void runInPieces(std::vector<void *> bindings, const moeplan_step &step, uint64_t tiles) const;

private:
  moeplan_kernel_fn function_;
};

/// The parameter is the name of a target CPU. Levels that the machine lacks are skipped by name.
class KernelTest : public ::testing::TestWithParam<const char *> {
protected:
  void SetUp() override;

  /// Specialises micro-kernel `implementation`, which has `bindings` operands, once per element.
  std::vector<Kernel> compile(const char *implementation, unsigned bindings,
                              const std::vector<Constants> &constants);
  Kernel compileOne(const char *implementation, unsigned bindings, const Constants &constants) {
    return compile(implementation, bindings, {constants}).front();
  }

  /// Bound on the error of a dot product as the kernels compute it: a chain of additions per lane,
  /// then the lanes, then the rest one by one, each with one rounding (Higham, Accuracy and
  /// Stability of Numerical Algorithms, section 3.1).
  double dotBound(const Weights &w, int64_t row, const float *x) const;

  compiler::CpuTarget target;

private:
  std::vector<std::unique_ptr<KernelModule>> modules_;
};

/// Runs `run` once with the whole grid and once in pieces on fresh copies of `output`: the same
/// bytes must come out. `run` gets the output and whether to run in pieces.
template <typename T>
void expectPiecesGiveTheSameBytes(const std::vector<T> &output,
                                  const std::function<void(T *, bool inPieces)> &run) {
  std::vector<T> whole = output, pieces = output;
  run(whole.data(), false);
  run(pieces.data(), true);
  EXPECT_EQ(std::memcmp(whole.data(), pieces.data(), whole.size() * sizeof(T)), 0);
}

/// Instantiates a test suite derived from KernelTest for every level.
#define MOEPLAN_INSTANTIATE_KERNEL_TEST(suite)                                                     \
  INSTANTIATE_TEST_SUITE_P(Cpu, suite,                                                             \
                           ::testing::Values("x86-64-v2", "x86-64-v3", "x86-64-v4", "host"),       \
                           [](const auto &info) {                                                  \
                             std::string name = info.param;                                        \
                             std::replace(name.begin(), name.end(), '-', '_');                     \
                             return name;                                                          \
                           })

} // namespace moeplan::testing
