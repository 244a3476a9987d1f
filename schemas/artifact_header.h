// The frozen first 64 bytes of every .moeplan file, of this and all later format versions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moeplan {

/// All fields are little-endian. `checksum` is XXH3-64 over the header bytes before it followed by
/// the metadata bytes, so that damage to either is found before either is interpreted.
struct ArtifactHeader {
  char magic[8];            ///< "MOEPLAN\n"
  uint32_t format_version;  ///< kFormatVersion of the writer
  uint32_t header_size;     ///< 64
  uint64_t metadata_offset; ///< of the FlatBuffer (moeplan.fbs), from the start of the file
  uint64_t metadata_size;   ///< bytes of the FlatBuffer
  uint64_t segment_base;    ///< file offset that segment offsets count from, a multiple of 4096
  uint64_t file_size;       ///< bytes of the whole file: a file cut anywhere is recognised
  uint64_t feature_bits;    ///< what a reader must understand; an unknown bit means refusal
  uint64_t checksum;
};
static_assert(sizeof(ArtifactHeader) == 64 && offsetof(ArtifactHeader, checksum) == 56);

/// The first bytes of a part of a split artifact; the artifact's bytes follow at kMappedAlignment.
/// All fields are little-endian. `checksum` is XXH3-64 over the bytes before it.
struct PartHeader {
  char magic[8];              ///< "MOEPART\n"
  uint32_t version;           ///< kPartVersion of the writer
  uint32_t header_size;       ///< 64
  uint32_t index, count;      ///< from 0; the parts that there are
  uint64_t offset, bytes;     ///< of the artifact, a multiple of 4096; in this part
  uint64_t artifact_bytes;    ///< of all parts
  uint64_t artifact_checksum; ///< that of ArtifactHeader: which artifact it is
  uint64_t checksum;
};
static_assert(sizeof(PartHeader) == 64 && offsetof(PartHeader, checksum) == 56);

inline constexpr char kPartMagic[8] = {'M', 'O', 'E', 'P', 'A', 'R', 'T', '\n'};
inline constexpr uint32_t kPartVersion = 1;

inline constexpr char kArtifactMagic[8] = {'M', 'O', 'E', 'P', 'L', 'A', 'N', '\n'};
inline constexpr uint32_t kFormatVersion = 1;

/// Bits of `feature_bits`: each is set exactly where a file uses the feature.
inline constexpr uint64_t kFeatureNoTokenizer = 1 << 0;      ///< tokenizer_segment is kNoTokenizer
inline constexpr uint64_t kFeatureSyntheticWeights = 1 << 1; ///< there is a synthetic_seed
inline constexpr uint64_t kFeatureDeviceKernels = 1 << 2; ///< there are kernels of other machines
inline constexpr uint64_t kFeatureHostWork = 1 << 3;      ///< device programs give work to the host
inline constexpr uint64_t kKnownFeatureBits =
    kFeatureNoTokenizer | kFeatureSyntheticWeights | kFeatureDeviceKernels | kFeatureHostWork;

/// Artifact.tokenizer_segment of an artifact that takes and gives token ids only.
inline constexpr uint32_t kNoTokenizer = UINT32_MAX;

/// Alignment in the file of segments that are mapped (weights) and of those that are decompressed.
inline constexpr uint64_t kMappedAlignment = 4096;
inline constexpr uint64_t kPackedAlignment = 64;

} // namespace moeplan
