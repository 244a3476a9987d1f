// The table of weight formats: the one place that knows what a format's bytes are.
#pragma once

#include "kernel_abi.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace moeplan {

/// One weight format. A weight is a matrix of `rows` x `columns` (a vector has one row); each row
/// is stored contiguously, without padding.
struct FormatInfo {
  moeplan_format id;
  std::string_view name; ///< as written in policies, segment names and IR
  uint32_t bits;         ///< per element
};

inline constexpr std::array<FormatInfo, 2> kFormats{{
    {MOEPLAN_FORMAT_F32, "f32", 32},
    {MOEPLAN_FORMAT_BF16, "bf16", 16},
}};

inline constexpr const FormatInfo *findFormat(std::string_view name) {
  for (const FormatInfo &format : kFormats)
    if (format.name == name)
      return &format;
  return nullptr;
}

inline constexpr const FormatInfo *findFormat(uint32_t id) {
  for (const FormatInfo &format : kFormats)
    if (format.id == id)
      return &format;
  return nullptr;
}

/// Bytes of a `rows` x `columns` weight, or nothing where the product exceeds 64 bits.
inline constexpr std::optional<uint64_t> formatBytes(const FormatInfo &format, uint64_t rows,
                                                     uint64_t columns) {
  uint64_t elements = 0, bits = 0, rounded = 0;
  if (__builtin_mul_overflow(rows, columns, &elements) ||
      __builtin_mul_overflow(elements, uint64_t(format.bits), &bits) ||
      __builtin_add_overflow(bits, uint64_t(7), &rounded))
    return std::nullopt;
  return rounded / 8;
}

} // namespace moeplan
