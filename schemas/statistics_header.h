// The first 32 bytes of a .moestats file; the FlatBuffer (moestats.fbs) follows, then the moments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moeplan {

/// All fields are little-endian. `checksum` is XXH3-64 over the header before it and the metadata.
struct StatisticsHeader {
  char magic[8];          ///< "MOESTATS"
  uint64_t metadata_size; ///< bytes of the FlatBuffer behind the header
  uint64_t file_size;
  uint64_t checksum;
};
static_assert(sizeof(StatisticsHeader) == 32 && offsetof(StatisticsHeader, checksum) == 24);

inline constexpr char kStatisticsMagic[8] = {'M', 'O', 'E', 'S', 'T', 'A', 'T', 'S'};
/// Alignment of the moments in the file.
inline constexpr uint64_t kMomentsAlignment = 64;

} // namespace moeplan
