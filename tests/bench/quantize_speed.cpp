// How fast the quantisers are, in bytes of bf16 input per second and core.
#include "compiler/quantize/lanes.h"
#include "compiler/quantize/tensor.h"
#include "runtime/support/command_line.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

std::vector<uint16_t> randomBf16(uint64_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<uint16_t> values(count);
  for (uint16_t &value : values) {
    const float number = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    value = uint16_t(bits >> 16);
  }
  return values;
}

/// Moments of correlated activations.
std::vector<float> moments(uint64_t columns, uint64_t block) {
  std::vector<float> values;
  for (uint64_t begin = 0; begin < columns; begin += block)
    for (uint64_t i = begin; i < std::min(begin + block, columns); ++i)
      for (uint64_t j = begin; j <= i; ++j)
        values.push_back(i == j ? 1000.0f : 300.0f);
  return values;
}

double medianSeconds(const TensorView &weight, const FormatInfo &format,
                     const QuantizerInfo &quantizer, const Calibration &calibration,
                     llvm::ThreadPoolInterface &threads, int repetitions) {
  std::vector<uint8_t> out(*formatBytes(format, weight.rows, weight.columns));
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    llvm::cantFail(quantizeTensor(weight, format, quantizer, calibration, out, threads));
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repetitions / 2, seconds.end());
  return seconds[size_t(repetitions) / 2];
}

} // namespace

int main(int argc, char **argv) {
  CLI::App app(
      "Prints, as markdown, GB/s of bf16 input for every quantiser on one core: the median "
      "of several runs over a weight of random numbers.",
      "moeplan-quantize-speed");
  uint64_t rows = 1792, columns = 4096, block = 128;
  int repetitions = 5;
  unsigned lanes = kLanes;
  app.add_option("--rows", rows)->capture_default_str();
  app.add_option("--columns", columns)->capture_default_str();
  app.add_option("--block", block, "columns of a block of the Hessian")->capture_default_str();
  app.add_option("--repetitions", repetitions)->capture_default_str();
  app.add_option("--lanes", lanes, "of a vector, at most: 16 is AVX-512, 8 AVX2, 4 SSE2")
      ->capture_default_str();
  if (const std::optional<int> code = parseCommandLine(app, argc, argv))
    return *code;
  limitLanes(lanes);

  const std::vector<uint16_t> values = randomBf16(rows * columns);
  const TensorView weight{"random", DType::BF16, reinterpret_cast<const uint8_t *>(values.data()),
                          rows, columns};
  const std::vector<float> sums = moments(columns, block);
  llvm::DefaultThreadPool one(llvm::hardware_concurrency(1));
  const auto begin = std::chrono::steady_clock::now();
  const Calibration calibration({uint32_t(columns), uint32_t(block), sums.data()}, 30000, one);
  std::fprintf(stderr, "Hessian factored in %.3f s\n",
               std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  std::printf("| GB/s of bf16 |");
  for (const QuantizerInfo &quantizer : kQuantizers)
    std::printf(" %s |", std::string(quantizer.name).c_str());
  std::printf("\n|---|---:|---:|---:|---:|---:|\n");
  for (const char *name : {"int8g64", "int4g64", "int4g32", "int3g32", "int2g32"}) {
    std::printf("| %s |", name);
    for (const QuantizerInfo &quantizer : kQuantizers) {
      const double seconds = medianSeconds(weight, *findFormat(std::string_view(name)), quantizer,
                                           calibration, one, repetitions);
      std::printf(" %.3f |", double(rows * columns * 2) / seconds / 1e9);
      std::fflush(stdout);
    }
    std::printf("\n");
  }
  return kExitDone;
}
