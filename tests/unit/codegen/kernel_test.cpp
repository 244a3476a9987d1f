#include "tests/unit/codegen/kernel_test.h"

#include "runtime/device/cpu_features.h"
#include "runtime/device/kernel_module.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

namespace moeplan::testing {

Operands::Operands(int64_t rows, int64_t columns, int64_t forms)
    : rows(rows), columns(columns), forms(forms), bytes(size_t(rows * rowBytes())) {}

Operands::Operands(const std::vector<float> &x, int64_t columns, int64_t forms)
    : Operands(int64_t(x.size()) / columns, columns, forms) {
  const moeplan_step step{uint32_t(rows), 0, 0, 0};
  moeplan_cpu_operand_reference(&step, 0, uint64_t(rows), x.data(), nullptr, bytes.data(), columns,
                                0, 0, forms, 0);
}

const char *Operands::form(int64_t token, int64_t form) const {
  return bytes.data() + token * rowBytes() + moeplan_form_offset(forms, form, columns);
}

std::vector<float> Operands::f32(int64_t token) const {
  std::vector<float> values(static_cast<size_t>(columns));
  std::memcpy(values.data(), form(token, MOEPLAN_FORM_F32), values.size() * sizeof(float));
  return values;
}

const moeplan_q8_block &Operands::q8(int64_t token, int64_t block) const {
  return reinterpret_cast<const moeplan_q8_block *>(form(token, MOEPLAN_FORM_Q8))[block];
}

double Operands::at(int64_t token, int64_t column, int64_t form) const {
  if (form == MOEPLAN_FORM_Q8) {
    const moeplan_q8_block &block = q8(token, column / MOEPLAN_BLOCK_COLUMNS);
    return double(block.scale) * block.codes[column % MOEPLAN_BLOCK_COLUMNS];
  }
  const size_t width = form == MOEPLAN_FORM_F32 ? 4 : 2;
  float value = 0;
  std::memcpy(reinterpret_cast<char *>(&value) + 4 - width,
              this->form(token, form) + size_t(column) * width, width);
  return value;
}

Operands Operands::only(int64_t form) const {
  Operands result(rows, columns, form);
  for (int64_t token = 0; token < rows; ++token)
    std::memcpy(result.row(token), this->form(token, form),
                size_t(moeplan_form_bytes(form, columns)));
  return result;
}

namespace {

/// The nearest bf16, of two the even one, by the rounding of double to 8 bits.
float nearestBf16(float x) {
  if (x == 0 || !std::isfinite(x))
    return x;
  const int exponent = std::max(std::ilogb(x), -126) - 7;
  return float(std::ldexp(std::nearbyint(std::ldexp(double(x), -exponent)), exponent));
}

::testing::AssertionResult failureAt(const char *what, int64_t column, double actual) {
  return ::testing::AssertionFailure() << what << " at column " << column << ": " << actual;
}

/// Blocks whose largest number has no inverse in float32 count as zero.
constexpr double kSmallestMaximum = 1e-35f;

::testing::AssertionResult isQ8Of(const Operands &operands, int64_t token,
                                  const std::vector<float> &x) {
  constexpr int64_t kBlock = MOEPLAN_BLOCK_COLUMNS, kActivations = MOEPLAN_ACTIVATION_BLOCK;
  for (int64_t first = 0; first < operands.columns; first += kActivations) {
    const int64_t end = std::min(first + kActivations, operands.columns);
    double maximum = 0;
    for (int64_t k = first; k < end; ++k)
      maximum = std::max(maximum, std::isfinite(x[size_t(k)]) ? double(std::abs(x[size_t(k)]))
                                                              : double(INFINITY));
    for (int64_t k = first; k < end; k += kBlock) {
      const moeplan_q8_block &block = operands.q8(token, k / kBlock);
      if (!std::isfinite(maximum)) {
        if (std::isfinite(block.scale))
          return failureAt("a finite scale of what is not", k, block.scale);
        continue;
      }
      // Two roundings; in units in the last place where the scale is subnormal.
      if (!(std::abs(block.scale - maximum / 127) <= maximum / 127 * 0x1p-23 + 0x1p-149))
        return failureAt("scale", k, block.scale);
      int sum = 0;
      for (int64_t i = 0; i < kBlock; ++i) {
        const int code = block.codes[i];
        sum += code;
        if (k + i >= end ? code != 0 : code < -127)
          return failureAt("code", k + i, code);
        if (k + i < end && maximum > kSmallestMaximum &&
            !(std::abs(x[size_t(k + i)] - double(block.scale) * code) <=
              double(block.scale) * (0.5 + 1e-4)))
          return failureAt("code is not the nearest", k + i, code);
        if (maximum <= kSmallestMaximum && code != 0)
          return failureAt("code of a number without inverse", k + i, code);
      }
      if (block.sum != block.scale * float(sum))
        return failureAt("sum", k, block.sum);
    }
  }
  return ::testing::AssertionSuccess();
}

} // namespace

::testing::AssertionResult isOperandOf(const Operands &operands, int64_t token,
                                       const std::vector<float> &x) {
  if ((operands.forms & MOEPLAN_FORM_F32) &&
      std::memcmp(operands.form(token, MOEPLAN_FORM_F32), x.data(), x.size() * sizeof(float)) != 0)
    return ::testing::AssertionFailure() << "the F32 form is another";
  if (operands.forms & MOEPLAN_FORM_BF16) {
    const int64_t padded = (operands.columns + MOEPLAN_BLOCK_COLUMNS - 1) / MOEPLAN_BLOCK_COLUMNS *
                           MOEPLAN_BLOCK_COLUMNS;
    for (int64_t k = 0; k < padded; ++k) {
      const auto actual = float(operands.at(token, k, MOEPLAN_FORM_BF16));
      const float expected = k < operands.columns ? nearestBf16(x[size_t(k)]) : 0.0f;
      if (std::isnan(expected) ? !std::isnan(actual) : actual != expected)
        return failureAt("bf16", k, actual) << ", expected " << expected;
    }
  }
  return operands.forms & MOEPLAN_FORM_Q8 ? isQ8Of(operands, token, x)
                                          : ::testing::AssertionSuccess();
}

namespace {

std::vector<void *> mutableBindings(const std::vector<const void *> &bindings) {
  std::vector<void *> result;
  for (const void *binding : bindings)
    result.push_back(const_cast<void *>(binding));
  return result;
}

} // namespace

void Kernel::run(std::vector<const void *> bindings, const moeplan_step &step,
                 uint64_t tiles) const {
  function_(mutableBindings(bindings).data(), &step, 0, tiles);
}

void Kernel::runInPieces(std::vector<const void *> bindings, const moeplan_step &step,
                         uint64_t tiles) const {
  const std::vector<void *> pointers = mutableBindings(bindings);
  function_(pointers.data(), &step, tiles, tiles); // an empty range is allowed
  for (uint64_t end = tiles, size = 1; end > 0; size = size % 3 + 1) {
    const uint64_t begin = end - std::min(end, size);
    function_(pointers.data(), &step, begin, end);
    end = begin;
  }
}

void KernelTest::SetUp() {
  auto resolve = [](const char *request) {
    auto resolved = compiler::resolveCpuTarget(request);
    if (!resolved)
      throw std::runtime_error(llvm::toString(resolved.takeError()));
    return *resolved;
  };
  target = resolve(GetParam());
  const std::vector<std::string> missing = missingCpuFeatures(target.features);
  if (!missing.empty())
    GTEST_SKIP() << "this machine cannot run " << GetParam() << " (kernels " << target.kernels->name
                 << "): it lacks " << missing.front();
  if (!isHost() && target.kernels == resolve("host").kernels)
    GTEST_SKIP() << "kernels " << target.kernels->name << " of " << GetParam()
                 << " are tested as those of the host";
}

std::vector<Kernel> KernelTest::compile(const char *implementation, unsigned bindings,
                                        const std::vector<Constants> &constants) const {
  static std::map<std::string, Kernel> cache;
  static std::vector<std::unique_ptr<KernelModule>> modules;
  std::vector<compiler::KernelSpec> specs;
  std::vector<std::string> keys, missing;
  for (const Constants &each : constants) {
    std::string key = target.cpu + " " + implementation;
    for (const auto &[name, value] : each)
      std::visit(
          [&](auto number) {
            key.append(name).append(reinterpret_cast<const char *>(&number), sizeof(number));
          },
          value);
    if (!cache.contains(key) && std::find(missing.begin(), missing.end(), key) == missing.end()) {
      specs.push_back({"kernel_" + std::to_string(specs.size()), implementation, each, bindings});
      missing.push_back(key);
    }
    keys.push_back(std::move(key));
  }
  if (!specs.empty()) {
    auto library = compiler::compileKernels(specs, target);
    if (!library)
      throw std::runtime_error(llvm::toString(library.takeError()));
    auto module = KernelModule::load(std::as_bytes(std::span(library->elf)));
    if (!module.ok())
      throw std::runtime_error(module.failure().message());
    for (size_t i = 0; i < specs.size(); ++i) {
      EXPECT_GT(library->codeBytes[i], 0u);
      cache.emplace(missing[i], module.value()->kernel(specs[i].symbol).value());
    }
    modules.push_back(std::move(module).value());
  }
  std::vector<Kernel> kernels;
  for (const std::string &key : keys)
    kernels.push_back(cache.at(key));
  return kernels;
}

double KernelTest::floatRoundings(int64_t columns) const {
  const unsigned lanes = target.kernels->lanes;
  return double(columns / lanes) + std::log2(lanes) + double(columns % lanes) + 2;
}

double KernelTest::dotBound(const Weights &w, int64_t row, const float *x) const {
  double sizes = 0;
  for (int64_t k = 0; k < w.columns; ++k)
    sizes += std::abs(double(x[k]) * w.at(row, k));
  return floatRoundings(w.columns) * kUnitRoundoff * sizes;
}

double KernelTest::dotBound(const Weights &w, int64_t row, const Operands &x, int64_t token) const {
  const int64_t form = moeplan_form_of(w.format);
  double sizes = 0;
  for (int64_t k = 0; k < w.columns; ++k)
    sizes += std::abs(x.at(token, k, form) * w.at(row, k));
  if (form == MOEPLAN_FORM_F32)
    return floatRoundings(w.columns) * kUnitRoundoff * sizes;
  // Two chains of pairs, each pair two roundings (products of bf16 are exact in float32), then
  // their sum; the reference rounds once, to float32. vdpbf16ps takes and gives zeros for subnormal
  // numbers.
  if (form == MOEPLAN_FORM_BF16)
    return double(MOEPLAN_PAIRS(w.columns) + 3) * kUnitRoundoff * sizes +
           double(w.columns) * 0x1p-125;
  // Exact sums over integers within a stretch of columns. Two terms each are rounded thrice at
  // most, with the sum of activations they contain, and added to one chain. The reference rounds
  // each activation and the result.
  const int64_t stretch =
      std::min<int64_t>(findFormat(uint32_t(w.format))->groupSize, MOEPLAN_ACTIVATION_BLOCK);
  const double stretches = std::ceil(double(w.columns) / double(stretch));
  double terms = 0;
  for (int64_t first = 0; first < w.columns; first += stretch) {
    double product = 0, blockSum = 0;
    for (int64_t k = first; k < std::min(first + stretch, w.columns); ++k) {
      const double activation = x.at(token, k, form);
      product += activation * (double(w.at(row, k)) + w.offsetAt(row, k));
      blockSum = (k % MOEPLAN_BLOCK_COLUMNS ? blockSum : 0) + activation * w.offsetAt(row, k);
      if ((k + 1) % MOEPLAN_BLOCK_COLUMNS == 0 || k + 1 == w.columns)
        terms += std::abs(blockSum);
    }
    terms += std::abs(product);
  }
  return ((2 * stretches + 4) * terms + 2 * sizes) * kUnitRoundoff;
}

} // namespace moeplan::testing
