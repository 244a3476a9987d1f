// The first bytes of a .moepatch file: what makes one artifact out of another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moeplan {

/// Behind it follow: header and metadata of the new artifact (`head_bytes`); for each segment of
/// it, in the order of its metadata, a uint32_t, the segment of the old artifact that holds the
/// same bytes, or kPatchLiteral; and the bytes of those that are new, one behind the other. All
/// fields are little-endian. `checksum` is XXH3-64 over the bytes before it, then all that follows
/// up to the new segments' bytes, which have checksums of their own in the metadata.
struct PatchHeader {
  char magic[8];         ///< "MOEPATCH"
  uint32_t version;      ///< kPatchVersion of the writer
  uint32_t header_size;  ///< 64
  uint64_t old_checksum; ///< that of ArtifactHeader: which artifact it is for
  uint64_t head_bytes;
  uint64_t segments;   ///< of the new artifact
  uint64_t file_bytes; ///< of the patch
  uint64_t reserved;   ///< 0
  uint64_t checksum;
};
static_assert(sizeof(PatchHeader) == 64 && offsetof(PatchHeader, checksum) == 56);

inline constexpr char kPatchMagic[8] = {'M', 'O', 'E', 'P', 'A', 'T', 'C', 'H'};
inline constexpr uint32_t kPatchVersion = 1;
inline constexpr uint32_t kPatchLiteral = UINT32_MAX;

} // namespace moeplan
