// What of a kernel depends on the machine more than on the model.
#pragma once

#include "kernel_abi.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <array>
#include <cstdint>
#include <string>

namespace moeplan::compiler {

/// How kernels that read weights of one width of codes do it.
struct FormatTuning {
  int64_t prefetchBytes = 0; ///< how far ahead weights are fetched; 0: left to the hardware
  int64_t unroll = 1;        ///< stretches of columns per turn of the innermost loop: 1, 2 or 4
};

/// Compile-time parameters of the CPU kernels. The defaults are those that were measured to be good
/// (kernels/cpu/README.md); `moeplanc compile --tune` searches them on the machine at hand.
struct KernelTuning {
  /// Bytes of weights in a tile of a decoding kernel: long reads, yet enough tiles to share out.
  int64_t tileBytes = 128 << 10;
  /// By width: f32, bf16, then 8, 4, 3 and 2 bits.
  std::array<FormatTuning, 6> formats{};

  static constexpr std::array<llvm::StringLiteral, 6> kWidths{"f32",  "bf16", "int8",
                                                              "int4", "int3", "int2"};
  static constexpr size_t widthOf(int64_t format) {
    return format < MOEPLAN_FORMAT_INT8G32 ? size_t(format - MOEPLAN_FORMAT_F32)
                                           : size_t(2 + (format - MOEPLAN_FORMAT_INT8G32) / 3);
  }
  const FormatTuning &of(int64_t format) const { return formats[widthOf(format)]; }
  FormatTuning &of(int64_t format) { return formats[widthOf(format)]; }
  /// For a kernel that reads a set of formats (bit f: format f): that of the widest.
  const FormatTuning &ofSet(int64_t set) const { return of(llvm::countr_zero(uint64_t(set))); }

  /// Reads "tile=131072,int4.prefetch=4096,int4.unroll=2"; what is not named keeps its default.
  static llvm::Expected<KernelTuning> parse(llvm::StringRef text);
  /// The same the other way round: what differs from the defaults, empty where nothing does.
  std::string print() const;
};

} // namespace moeplan::compiler
