// The micro-kernels as LLVM bitcode, unoptimised and with parameter names, per lane count.
#pragma once

#include <cstddef>
#include <span>

extern "C" {
extern const char moeplan_cpu_kernels_4[], moeplan_cpu_kernels_4_end[];
extern const char moeplan_cpu_kernels_8[], moeplan_cpu_kernels_8_end[];
extern const char moeplan_cpu_kernels_16[], moeplan_cpu_kernels_16_end[];
}

namespace moeplan {

/// The library whose vectors have `lanes` (4, 8 or 16) float32 lanes. Static storage.
inline std::span<const char> cpuKernelBitcode(unsigned lanes) {
  if (lanes >= 16)
    return {moeplan_cpu_kernels_16, moeplan_cpu_kernels_16_end};
  if (lanes >= 8)
    return {moeplan_cpu_kernels_8, moeplan_cpu_kernels_8_end};
  return {moeplan_cpu_kernels_4, moeplan_cpu_kernels_4_end};
}

} // namespace moeplan
