#include "tests/unit/codegen/kernel_test.h"

#include "runtime/device/cpu_features.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace moeplan::testing {

std::vector<float> RandomNumbers::floats(size_t count) {
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return next(); });
  return values;
}

Weights::Weights(RandomNumbers &random, int64_t rows, int64_t columns, moeplan_format format)
    : rows(rows), columns(columns), format(format) {
  for (float value : random.floats(size_t(rows * columns))) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    // The upper half of a float32 is a bf16.
    const char *begin = reinterpret_cast<const char *>(&bits);
    if (format == MOEPLAN_FORMAT_BF16)
      bytes.insert(bytes.end(), begin + 2, begin + 4);
    else
      bytes.insert(bytes.end(), begin, begin + 4);
  }
}

float Weights::at(int64_t row, int64_t column) const {
  const size_t index = size_t(row * columns + column);
  uint32_t bits = 0;
  if (format == MOEPLAN_FORMAT_BF16)
    std::memcpy(reinterpret_cast<char *>(&bits) + 2, bytes.data() + index * 2, 2);
  else
    std::memcpy(&bits, bytes.data() + index * 4, 4);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void Kernel::runInPieces(std::vector<void *> bindings, const moeplan_step &step,
                         uint64_t tiles) const {
  function_(bindings.data(), &step, tiles, tiles); // an empty range is allowed
  for (uint64_t end = tiles, size = 1; end > 0; size = size % 3 + 1) {
    const uint64_t begin = end - std::min(end, size);
    function_(bindings.data(), &step, begin, end);
    end = begin;
  }
}

void KernelTest::SetUp() {
  auto resolved = compiler::resolveCpuTarget(GetParam());
  if (!resolved)
    FAIL() << llvm::toString(resolved.takeError());
  target = *resolved;
  const std::vector<std::string> missing = missingCpuFeatures(target.features);
  if (!missing.empty())
    GTEST_SKIP() << "this machine cannot run " << GetParam() << ": it lacks " << missing.front();
}

std::vector<Kernel> KernelTest::compile(const char *implementation, unsigned bindings,
                                        const std::vector<Constants> &constants) {
  std::vector<compiler::KernelSpec> specs;
  for (const Constants &each : constants)
    specs.push_back({"kernel_" + std::to_string(specs.size()), implementation, each, bindings});
  auto library = compiler::compileKernels(specs, target);
  if (!library)
    throw std::runtime_error(llvm::toString(library.takeError()));
  auto module = KernelModule::load(std::as_bytes(std::span(library->elf)));
  if (!module.ok())
    throw std::runtime_error(module.failure().message());
  std::vector<Kernel> kernels;
  for (size_t i = 0; i < specs.size(); ++i) {
    EXPECT_GT(library->codeBytes[i], 0u);
    kernels.push_back(module.value()->kernel(specs[i].symbol).value());
  }
  modules_.push_back(std::move(module).value());
  return kernels;
}

double KernelTest::dotBound(const Weights &w, int64_t row, const float *x) const {
  double sizes = 0;
  for (int64_t k = 0; k < w.columns; ++k)
    sizes += std::abs(double(x[k]) * w.at(row, k));
  // Products round where the CPU has no fused multiply-add. The reference rounds once, to float32.
  const double roundings = double(w.columns / target.lanes) + std::log2(target.lanes) +
                           double(w.columns % target.lanes) + 2;
  return roundings * kUnitRoundoff * sizes;
}

} // namespace moeplan::testing
