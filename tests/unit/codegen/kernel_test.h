// Kernels compiled for each instruction set that this machine can run, and what is needed to
// compare them with their scalar references.
#pragma once

#include "compiler/codegen/kernel_library.h"
#include "cpu/kernels.h"
#include "tests/support/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moeplan::testing {

using Constants = std::vector<std::pair<std::string, std::variant<int64_t, double>>>;

/// Half a unit in the last place of float32, relative: the error of one rounding.
constexpr double kUnitRoundoff = 0x1p-24;
/// The same for a number that is split into two bf16: each has 8 bits.
constexpr double kSplitRoundoff = 0x1p-17;

constexpr int64_t kAllForms = MOEPLAN_FORM_F32 | MOEPLAN_FORM_BF16 | MOEPLAN_FORM_Q8;
/// Token counts around the tiles of tokens that kernels work on, the largest first.
constexpr uint32_t kTokenCounts[] = {33, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17};

/// One CPU for each row of kCpuKernelBitcodes, with as little besides as there is, and the host.
inline constexpr const char *kKernelTargets[] = {
    "x86-64-v2", "x86-64-v3", "alderlake", "x86-64-v4", "cascadelake", "cooperlake", "host"};

/// Rows of activations in the forms of kernels/cpu/operand.h.
struct Operands {
  /// Zeros, to be written by a kernel.
  Operands(int64_t rows, int64_t columns, int64_t forms);
  /// Made of `x` float32 [rows, columns] by the scalar reference.
  Operands(const std::vector<float> &x, int64_t columns, int64_t forms);

  int64_t rowBytes() const { return moeplan_operand_bytes(forms, columns); }
  char *row(int64_t token) { return bytes.data() + token * rowBytes(); }
  const char *form(int64_t token, int64_t form) const;
  std::vector<float> f32(int64_t token) const;
  const moeplan_q8_block &q8(int64_t token, int64_t block) const;
  /// The number that stands for (token, column) in a form.
  double at(int64_t token, int64_t column, int64_t form) const;
  /// The same rows with one form alone.
  Operands only(int64_t form) const;

  int64_t rows, columns, forms;
  std::vector<char> bytes;
};

/// Whether the forms of row `token` are what operand.h makes of the row's float32 numbers.
::testing::AssertionResult isOperandOf(const Operands &operands, int64_t token,
                                       const std::vector<float> &x);

/// One kernel with its constants. The constants reach the reference as plain arguments.
class Kernel {
public:
  Kernel(moeplan_kernel_fn function) : function_(function) {}

  /// All tiles in one call.
  void run(std::vector<const void *> bindings, const moeplan_step &step, uint64_t tiles) const;
  /// The same in calls of one to three tiles, from the last to the first.
  void runInPieces(std::vector<const void *> bindings, const moeplan_step &step,
                   uint64_t tiles) const;

private:
  moeplan_kernel_fn function_;
};

/// The parameter is the name of a target CPU. Those that the machine lacks are skipped by name; so
/// are those that get the kernels that the host gets.
class KernelTest : public ::testing::TestWithParam<const char *> {
protected:
  void SetUp() override;

  /// The host's kernels are tested in every specialisation. The others, which differ from them in
  /// instructions alone, in each that has its own code.
  bool isHost() const { return std::string(GetParam()) == "host"; }

  /// Specialises micro-kernel `implementation`, which has `bindings` operands, once per element.
  /// Kept for later tests: this is what takes the time.
  std::vector<Kernel> compile(const char *implementation, unsigned bindings,
                              const std::vector<Constants> &constants) const;
  Kernel compileOne(const char *implementation, unsigned bindings,
                    const Constants &constants) const {
    return compile(implementation, bindings, {constants}).front();
  }

  /// Bound on the error of row `row` of `w` times row `token` of `x`, against the reference's
  /// product of the same numbers.
  double dotBound(const Weights &w, int64_t row, const Operands &x, int64_t token) const;
  /// The same for float32 rows.
  double dotBound(const Weights &w, int64_t row, const float *x) const;
  /// Roundings of a float32 product of `columns` columns: a chain of additions per lane, then the
  /// lanes, then the rest one by one, and the product's where the CPU has no fused multiply-add
  /// (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
  double floatRoundings(int64_t columns) const;
  /// Bound on the relative error of an element of a normalised row: the sum of squares has no
  /// cancellation, half its relative error goes through the root; then a division, an addition,
  /// root, division and two products.
  double normBound(int64_t features) const {
    return (floatRoundings(features) / 2 + 8) * kUnitRoundoff;
  }

  compiler::CpuTarget target;
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

/// Instantiates a test suite derived from KernelTest for every target.
#define MOEPLAN_INSTANTIATE_KERNEL_TEST(suite)                                                     \
  INSTANTIATE_TEST_SUITE_P(Cpu, suite, ::testing::ValuesIn(kKernelTargets), [](const auto &info) { \
    std::string name = info.param;                                                                 \
    std::replace(name.begin(), name.end(), '-', '_');                                              \
    return name;                                                                                   \
  })

} // namespace moeplan::testing
