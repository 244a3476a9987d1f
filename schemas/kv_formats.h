// The table of KV cache formats.
#pragma once

#include "kernel_abi.h"

#include <cstdint>
#include <optional>
#include <string_view>

namespace moeplan {

struct KvFormatInfo {
  moeplan_kv_format id;
  std::string_view name; ///< as on command lines and in IR
};

inline constexpr KvFormatInfo kKvFormats[] = {
    {MOEPLAN_KV_F32, "f32"}, {MOEPLAN_KV_BF16, "bf16"}, {MOEPLAN_KV_INT8, "int8"}};

inline constexpr const KvFormatInfo *findKvFormat(std::string_view name) {
  for (const KvFormatInfo &format : kKvFormats)
    if (format.name == name)
      return &format;
  return nullptr;
}

inline constexpr const KvFormatInfo *findKvFormat(uint32_t id) {
  for (const KvFormatInfo &format : kKvFormats)
    if (format.id == id)
      return &format;
  return nullptr;
}

/// Positions that a cache for `contextLength` of them has: see MOEPLAN_KV_POSITIONS.
inline constexpr uint64_t kvCapacity(uint64_t contextLength) {
  return (contextLength + MOEPLAN_KV_POSITIONS - 1) / MOEPLAN_KV_POSITIONS * MOEPLAN_KV_POSITIONS;
}

/// Bytes of the keys of a layer, and as many for its values; nothing where they exceed 64 bits.
inline std::optional<uint64_t> kvLayerBytes(moeplan_kv_format format, uint64_t contextLength,
                                            uint32_t numKvHeads, uint32_t headDim) {
  uint64_t rows = 0, bytes = 0;
  if (__builtin_mul_overflow(kvCapacity(contextLength), uint64_t(numKvHeads), &rows) ||
      __builtin_mul_overflow(rows, uint64_t(moeplan_kv_row_bytes(format, headDim)), &bytes))
    return std::nullopt;
  return bytes;
}

} // namespace moeplan
