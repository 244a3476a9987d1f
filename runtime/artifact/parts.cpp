#include "runtime/artifact/parts.h"

#include "runtime/support/hash.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>

namespace moeplan {

namespace {

constexpr uint32_t kMostParts = 99'999;
constexpr std::string_view kExtension = ".moeplan";

uint64_t checksumOf(const PartHeader &header) {
  return XXH3_64bits(&header, offsetof(PartHeader, checksum));
}

std::string partSuffix(uint32_t index, uint32_t count) {
  char text[32];
  std::snprintf(text, sizeof(text), "-%05u-of-%05u", index + 1, count);
  return text;
}

/// The header of a part; nothing where the file is none.
Result<std::optional<PartHeader>> readHeader(const MappedFile &file) {
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() < sizeof(kPartMagic) ||
      std::memcmp(bytes.data(), kPartMagic, sizeof(kPartMagic)) != 0)
    return std::optional<PartHeader>();
  PartHeader header{};
  if (bytes.size() < sizeof(header))
    return corrupt("is cut off");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kPartVersion)
    return unsupported("part version " + std::to_string(header.version) +
                       ", this runtime reads version " + std::to_string(kPartVersion));
  if (header.checksum != checksumOf(header) || header.header_size != sizeof(header))
    return corrupt("its header is damaged");
  if (header.count == 0 || header.count > kMostParts || header.index >= header.count ||
      header.bytes == 0 || header.offset % kMappedAlignment != 0 ||
      header.offset > header.artifact_bytes ||
      header.bytes > header.artifact_bytes - header.offset ||
      (header.index + 1 < header.count && header.bytes % kMappedAlignment != 0))
    return corrupt("its header breaks a rule of the format");
  if (bytes.size() < kMappedAlignment || bytes.size() - kMappedAlignment != header.bytes)
    return corrupt("has " + std::to_string(bytes.size()) + " bytes, its header says " +
                   std::to_string(kMappedAlignment + header.bytes));
  return std::optional(header);
}

/// The path of the artifact before it was split; nothing where `path` is not named as a part.
std::optional<std::string> artifactPath(std::string path, const PartHeader &header) {
  const std::string suffix = partSuffix(header.index, header.count) + std::string(kExtension);
  if (!path.ends_with(suffix))
    return std::nullopt;
  path.resize(path.size() - suffix.size());
  return path + std::string(kExtension);
}

/// The part `index` of the artifact that `first` is of.
Result<FilePiece> openPart(const std::string &path, const PartHeader &first, uint32_t index,
                           uint64_t offset) {
  MOEPLAN_ASSIGN(const MappedFile file, MappedFile::open(path));
  auto read = readHeader(file);
  if (!read.ok())
    return std::move(read).status().withContext(path);
  const std::optional<PartHeader> &header = read.value();
  if (!header || header->artifact_checksum != first.artifact_checksum ||
      header->artifact_bytes != first.artifact_bytes || header->count != first.count ||
      header->index != index || header->offset != offset)
    return corrupt(path + ": is no part of the same artifact");
  return FilePiece{path, file.pieces().front().stamp, kMappedAlignment, 0, header->bytes};
}

} // namespace

std::string partPath(const std::string &artifact, uint32_t index, uint32_t count) {
  const bool named = artifact.ends_with(kExtension);
  return artifact.substr(0, artifact.size() - (named ? kExtension.size() : 0)) +
         partSuffix(index, count) + std::string(kExtension);
}

Result<std::vector<PartHeader>> planParts(uint64_t artifactBytes, uint64_t artifactChecksum,
                                          uint64_t maxBytes) {
  if (maxBytes < 2 * kMappedAlignment)
    return invalidArgument("a part has at least " + std::to_string(2 * kMappedAlignment) +
                           " bytes, " + std::to_string(maxBytes) + " are allowed");
  const uint64_t each = (maxBytes - kMappedAlignment) / kMappedAlignment * kMappedAlignment;
  const uint64_t count = (artifactBytes + each - 1) / each;
  if (count > kMostParts)
    return invalidArgument("parts of " + std::to_string(maxBytes) + " bytes would be more than " +
                           std::to_string(kMostParts));
  std::vector<PartHeader> parts;
  for (uint32_t index = 0; index < count; ++index) {
    PartHeader header{};
    std::memcpy(header.magic, kPartMagic, sizeof(kPartMagic));
    header.version = kPartVersion;
    header.header_size = sizeof(header);
    header.index = index;
    header.count = static_cast<uint32_t>(count);
    header.offset = index * each;
    header.bytes = std::min(each, artifactBytes - header.offset);
    header.artifact_bytes = artifactBytes;
    header.artifact_checksum = artifactChecksum;
    header.checksum = checksumOf(header);
    parts.push_back(header);
  }
  return parts;
}

Result<MappedFile> openArtifactFile(const std::string &path) {
  MOEPLAN_ASSIGN(MappedFile file, MappedFile::open(path));
  auto read = readHeader(file);
  if (!read.ok())
    return std::move(read).status().withContext(path);
  if (!read.value())
    return file;
  const PartHeader header = *read.value();
  const std::optional<std::string> artifact = artifactPath(path, header);
  if (!artifact)
    return notFound(path + ": is part " + std::to_string(header.index + 1) + " of " +
                    std::to_string(header.count) + " and must be called so: '..." +
                    partSuffix(header.index, header.count) + std::string(kExtension) + "'");
  std::vector<FilePiece> pieces;
  uint64_t offset = 0;
  for (uint32_t index = 0; index < header.count; ++index) {
    MOEPLAN_ASSIGN(FilePiece piece,
                   openPart(partPath(*artifact, index, header.count), header, index, offset));
    offset += piece.bytes;
    pieces.push_back(std::move(piece));
  }
  if (offset != header.artifact_bytes)
    return corrupt(path + ": its parts are " + std::to_string(offset) +
                   " bytes, the artifact has " + std::to_string(header.artifact_bytes));
  return MappedFile::join(std::move(pieces));
}

} // namespace moeplan
