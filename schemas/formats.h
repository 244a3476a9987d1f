// The table of weight formats: the one place that knows what a format's bytes are.
#pragma once

#include "kernel_abi.h"
#include "packing.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moeplan {

/// One weight format. A weight is a matrix of `rows` x `columns`; a vector has one row.
struct FormatInfo {
  moeplan_format id;
  std::string_view name; ///< as written in policies, segment names and IR
  uint32_t bits;         ///< of an element or of its code, scales not counted
  uint32_t groupSize;    ///< columns that share a scale; 0: no scales
  bool symmetric;        ///< no zero point is stored
  ScaleType scale;
  const PackingInfo *packing; ///< layout: bytes of a shape, pack, unpack, one element

  constexpr bool isPacked() const { return groupSize != 0; }
};

inline constexpr FormatInfo packedFormat(moeplan_format id, std::string_view name, uint32_t bits,
                                         uint32_t groupSize) {
  return {id, name, bits, groupSize, /*symmetric=*/false, ScaleType::E5M3, &kTiledPacking};
}

inline constexpr std::array<FormatInfo, 14> kFormats{{
    {MOEPLAN_FORMAT_F32, "f32", 32, 0, true, ScaleType::None, &kRowMajorPacking},
    {MOEPLAN_FORMAT_BF16, "bf16", 16, 0, true, ScaleType::None, &kPairPacking},
    packedFormat(MOEPLAN_FORMAT_INT8G32, "int8g32", 8, 32),
    packedFormat(MOEPLAN_FORMAT_INT8G64, "int8g64", 8, 64),
    packedFormat(MOEPLAN_FORMAT_INT8G128, "int8g128", 8, 128),
    packedFormat(MOEPLAN_FORMAT_INT4G32, "int4g32", 4, 32),
    packedFormat(MOEPLAN_FORMAT_INT4G64, "int4g64", 4, 64),
    packedFormat(MOEPLAN_FORMAT_INT4G128, "int4g128", 4, 128),
    packedFormat(MOEPLAN_FORMAT_INT3G32, "int3g32", 3, 32),
    packedFormat(MOEPLAN_FORMAT_INT3G64, "int3g64", 3, 64),
    packedFormat(MOEPLAN_FORMAT_INT3G128, "int3g128", 3, 128),
    packedFormat(MOEPLAN_FORMAT_INT2G32, "int2g32", 2, 32),
    packedFormat(MOEPLAN_FORMAT_INT2G64, "int2g64", 2, 64),
    packedFormat(MOEPLAN_FORMAT_INT2G128, "int2g128", 2, 128),
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

/// "'f32', 'bf16', ..." for messages.
inline std::string knownFormats() {
  std::string names;
  for (const FormatInfo &format : kFormats)
    names.append(names.empty() ? "'" : ", '").append(format.name).append("'");
  return names;
}

/// Bytes of a `rows` x `columns` weight, scales and padding included, or nothing where the product
/// exceeds 64 bits.
inline std::optional<uint64_t> formatBytes(const FormatInfo &format, uint64_t rows,
                                           uint64_t columns) {
  return format.packing->bytes({format.bits, format.groupSize, rows, columns});
}

/// Average bytes of a row of a large weight, at least 1.
inline uint64_t formatRowBytes(const FormatInfo &format, uint64_t columns) {
  constexpr uint64_t kRows = MOEPLAN_TILE_ROWS;
  return (formatBytes(format, kRows, columns).value_or(0) + kRows - 1) / kRows;
}

} // namespace moeplan
