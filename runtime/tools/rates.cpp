#include "runtime/tools/rates.h"

namespace moeplan::tools {
namespace {

// Larger than the last-level cache of any current CPU, so that memory is what is measured.
constexpr uint64_t hostBufferBytes = uint64_t{1} << 30;
// Twice this is taken of a GPU's memory, beside the model.
constexpr uint64_t gpuBufferBytes = uint64_t{1} << 28;
constexpr uint32_t bandwidthRepetitions = 3;
constexpr uint32_t peakRepetitions = 5;

} // namespace

double RateMeter::readBandwidth() const {
  if (!isGpu_)
    return hostReadBandwidth();
  double bytesPerSecond = 0;
  check(moeplan_runtime_measure_device_bandwidth(&runtime_, gpuBufferBytes, bandwidthRepetitions,
                                                 &bytesPerSecond));
  return bytesPerSecond;
}

double RateMeter::hostReadBandwidth() const {
  double bytesPerSecond = 0;
  check(moeplan_measure_read_bandwidth(threads_, hostBufferBytes, bandwidthRepetitions,
                                       &bytesPerSecond));
  return bytesPerSecond;
}

double RateMeter::linkBandwidth() const {
  double bytesPerSecond = 0;
  check(moeplan_runtime_measure_link_bandwidth(&runtime_, gpuBufferBytes, bandwidthRepetitions,
                                               &bytesPerSecond));
  return bytesPerSecond;
}

uint64_t RateMeter::fetchedBytes() const {
  return moeplan_runtime_memory_counters(&runtime_).miss_bytes;
}

std::array<double, arithmetics.size()> RateMeter::arithmeticPeaks() const {
  return isGpu_ ? std::array<double, arithmetics.size()>{} : hostArithmeticPeaks();
}

std::array<double, arithmetics.size()> RateMeter::hostArithmeticPeaks() const {
  std::array<double, arithmetics.size()> peaks{};
  for (const Arithmetic &arithmetic : arithmetics)
    check(moeplan_measure_arithmetic_peak(arithmetic.id, threads_, peakRepetitions,
                                          &peaks[arithmetic.id]));
  return peaks;
}

} // namespace moeplan::tools
