// The micro-kernels as LLVM bitcode, unoptimised and with parameter names: one library per
// instruction set that isa.h knows.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#define MOEPLAN_CPU_KERNEL_BITCODE(name)                                                           \
  extern "C" const char moeplan_cpu_kernels_##name[], moeplan_cpu_kernels_##name##_end[];
MOEPLAN_CPU_KERNEL_BITCODE(baseline)
#if defined(__x86_64__)
MOEPLAN_CPU_KERNEL_BITCODE(avx2)
MOEPLAN_CPU_KERNEL_BITCODE(avxvnni)
MOEPLAN_CPU_KERNEL_BITCODE(avx512)
MOEPLAN_CPU_KERNEL_BITCODE(avx512vnni)
MOEPLAN_CPU_KERNEL_BITCODE(avx512bf16)
#endif
#undef MOEPLAN_CPU_KERNEL_BITCODE

namespace moeplan {

/// One library. `begin` .. `end` has static storage.
struct CpuKernelBitcode {
  std::string_view name;
  unsigned lanes; ///< float32 lanes of its vectors
  std::array<std::string_view, 4> needs; ///< LLVM's names of CPU features; empty: no more
  const char *begin, *end;

  std::span<const char> bytes() const { return {begin, end}; }
  /// Whether a CPU has all that the library needs; `has` answers for one feature.
  template <typename Has> bool runsOn(const Has &has) const {
    for (std::string_view feature : needs)
      if (!feature.empty() && !has(feature))
        return false;
    return true;
  }
};

/// The best first; the last one needs nothing.
inline const CpuKernelBitcode kCpuKernelBitcodes[] = {
#define MOEPLAN_CPU_KERNEL_BITCODE(name, lanes, ...)                                               \
  {#name, lanes, {__VA_ARGS__}, moeplan_cpu_kernels_##name, moeplan_cpu_kernels_##name##_end}
#if defined(__x86_64__)
    MOEPLAN_CPU_KERNEL_BITCODE(avx512bf16, 16, "avx512f", "avx512bw", "avx512vnni", "avx512bf16"),
    MOEPLAN_CPU_KERNEL_BITCODE(avx512vnni, 16, "avx512f", "avx512bw", "avx512vnni"),
    MOEPLAN_CPU_KERNEL_BITCODE(avx512, 16, "avx512f", "avx512bw"),
    MOEPLAN_CPU_KERNEL_BITCODE(avxvnni, 8, "avx2", "fma", "avxvnni"),
    MOEPLAN_CPU_KERNEL_BITCODE(avx2, 8, "avx2", "fma"),
#endif
    MOEPLAN_CPU_KERNEL_BITCODE(baseline, 4, ),
#undef MOEPLAN_CPU_KERNEL_BITCODE
};

} // namespace moeplan
