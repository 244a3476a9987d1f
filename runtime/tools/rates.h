// What the device that runs a model can do.
#pragma once

#include "runtime/tools/bench_measure.h"
#include "runtime/tools/common.h"

#include <array>
#include <string_view>

namespace moeplan::tools {

class RateMeter {
public:
  /// `runtime` is on `device` and must outlive it. `threads`: of a CPU.
  RateMeter(std::string_view device, moeplan_runtime &runtime, uint32_t threads)
      : runtime_(runtime), isGpu_(device.starts_with("cuda")), threads_(threads) {}

  bool isGpu() const { return isGpu_; }
  /// Bytes per second of the memory that the device computes from.
  double readBandwidth() const;
  /// The same of the host's CPU.
  double hostReadBandwidth() const;
  /// Of the host's memory to a GPU.
  double linkBandwidth() const;
  /// What has passed the link to fetch experts, since the beginning; 0: they were read in place.
  uint64_t fetchedBytes() const;
  /// Zeros for a GPU, whose are not measured.
  std::array<double, arithmetics.size()> arithmeticPeaks() const;
  /// Of the host's CPU.
  std::array<double, arithmetics.size()> hostArithmeticPeaks() const;

private:
  moeplan_runtime &runtime_;
  bool isGpu_;
  uint32_t threads_;
};

} // namespace moeplan::tools
