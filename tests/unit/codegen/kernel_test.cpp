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
  const FormatInfo &info = *findFormat(uint32_t(format));
  const WeightShape shape = this->shape();
  bytes.resize(*formatBytes(info, shape.rows, shape.columns));
  const auto elements = size_t(rows * columns);
  if (!info.isPacked()) {
    const std::vector<float> values = random.floats(elements);
    for (size_t i = 0; i < elements; ++i) // the upper half of a float32 is a bf16
      std::memcpy(bytes.data() + i * info.bits / 8,
                  reinterpret_cast<const char *>(&values[i]) + 4 - info.bits / 8, info.bits / 8);
    return;
  }
  // Any code and zero, and scales from 2^-6 to 2^-3. Padding is not zero: no kernel may use it.
  std::vector<uint8_t> codes(elements), scales(shape.rows * shape.groups()), zeros(scales.size());
  for (uint8_t &code : codes)
    code = uint8_t(random.below(1u << info.bits));
  for (uint8_t &scale : scales)
    scale = uint8_t(18 * 8 + random.below(3 * 8));
  for (uint8_t &zero : zeros)
    zero = uint8_t(random.below(256));
  auto *data = reinterpret_cast<uint8_t *>(bytes.data());
  std::vector<uint8_t> packed(bytes.size()), mask(bytes.size());
  info.packing->pack(shape, {codes.data(), scales.data(), zeros.data()}, packed.data());
  // What is padding: what stays zero where every number is all ones.
  std::fill(codes.begin(), codes.end(), uint8_t((1u << info.bits) - 1));
  std::fill(scales.begin(), scales.end(), uint8_t(255));
  std::fill(zeros.begin(), zeros.end(), uint8_t(255));
  info.packing->pack(shape, {codes.data(), scales.data(), zeros.data()}, mask.data());
  for (size_t i = 0; i < packed.size(); ++i)
    data[i] = uint8_t(packed[i] | (random.below(256) & ~mask[i]));
}

WeightShape Weights::shape() const {
  const FormatInfo &info = *findFormat(uint32_t(format));
  return {info.bits, info.groupSize, uint64_t(rows), uint64_t(columns)};
}

float Weights::at(int64_t row, int64_t column) const {
  return findFormat(uint32_t(format))
      ->packing->at(shape(), reinterpret_cast<const uint8_t *>(bytes.data()), uint64_t(row),
                    uint64_t(column));
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
  double roundings = double(w.columns / target.lanes) + std::log2(target.lanes) +
                     double(w.columns % target.lanes) + 2;
  // Packed weights have their rows in the lanes: one chain for even columns, one for odd ones.
  if (findFormat(uint32_t(w.format))->isPacked())
    roundings = double((w.columns + 1) / 2) + 3;
  return roundings * kUnitRoundoff * sizes;
}

} // namespace moeplan::testing
