#include "runtime/artifact/patch.h"

#include "patch_header.h"
#include "runtime/support/hash.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

namespace moeplan {

namespace {

constexpr uint64_t kPartBytes = 16 << 20;

template <typename T> std::span<const std::byte> bytesOf(const T &value) {
  return std::as_bytes(std::span(&value, 1));
}

uint64_t checksumOf(PatchHeader header, std::span<const std::byte> head,
                    std::span<const std::byte> sources) {
  Hasher hasher;
  hasher.update(&header, offsetof(PatchHeader, checksum));
  hasher.update(head);
  hasher.update(sources);
  return hasher.digest();
}

/// The segments of an artifact, by what tells their bytes apart.
using SegmentIndex = std::multimap<std::pair<uint64_t, uint64_t>, uint32_t>;

std::pair<uint64_t, uint64_t> identityOf(const fb::Segment &segment) {
  return {segment.extent()->checksum(), segment.extent()->stored_bytes()};
}

SegmentIndex indexOf(const Artifact &artifact) {
  SegmentIndex index;
  const auto &segments = *artifact.metadata().segments();
  for (uint32_t i = 0; i < segments.size(); ++i)
    if (!segments.Get(i)->synthetic())
      index.emplace(identityOf(*segments.Get(i)), i);
  return index;
}

/// Which segment of `before` holds the bytes of `wanted`; kPatchLiteral where none does.
uint32_t sourceOf(const Artifact &before, const SegmentIndex &index, const fb::Segment &segment,
                  std::span<const std::byte> wanted) {
  const auto [begin, end] = index.equal_range(identityOf(segment));
  for (auto candidate = begin; candidate != end; ++candidate)
    if (std::ranges::equal(before.stored(candidate->second), wanted))
      return candidate->second;
  return kPatchLiteral;
}

/// A patch that has been read and checked, but for the bytes of new segments.
struct Patch {
  PatchHeader header{};
  std::span<const std::byte> head, literals;
  std::vector<uint32_t> sources;
};

Result<Patch> readPatch(std::span<const std::byte> bytes, const Artifact &before) {
  Patch patch;
  PatchHeader &header = patch.header;
  if (bytes.size() < sizeof(kPatchMagic) ||
      std::memcmp(bytes.data(), kPatchMagic, sizeof(kPatchMagic)) != 0)
    return corrupt("not a .moepatch file");
  if (bytes.size() < sizeof(header))
    return corrupt("is cut off");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kPatchVersion)
    return unsupported("patch version " + std::to_string(header.version) +
                       ", this runtime reads version " + std::to_string(kPatchVersion));
  if (header.file_bytes != bytes.size())
    return corrupt("has " + std::to_string(bytes.size()) + " bytes, its header says " +
                   std::to_string(header.file_bytes));
  std::span<const std::byte> rest = bytes.subspan(sizeof(header));
  if (header.header_size != sizeof(header) || header.head_bytes < sizeof(ArtifactHeader) ||
      header.head_bytes > rest.size() ||
      header.segments > (rest.size() - header.head_bytes) / sizeof(uint32_t))
    return corrupt("its header breaks a rule of the format");
  patch.head = rest.first(header.head_bytes);
  rest = rest.subspan(header.head_bytes);
  const auto sources = rest.first(header.segments * sizeof(uint32_t));
  patch.literals = rest.subspan(sources.size());
  if (header.checksum != checksumOf(header, patch.head, sources))
    return corrupt("its checksum does not match: the file is damaged");
  if (header.old_checksum != before.header().checksum)
    return invalidArgument("is for another artifact");
  patch.sources.resize(header.segments);
  std::memcpy(patch.sources.data(), sources.data(), sources.size());
  return patch;
}

/// Writes bytes in parts, and hashes them.
Result<uint64_t> copyTo(PendingFile &file, uint64_t offset, std::span<const std::byte> bytes,
                        const std::function<void(uint64_t)> &copied) {
  Hasher hasher;
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(kPartBytes, uint64_t(bytes.size())))) {
    const auto part = bytes.first(std::min(kPartBytes, uint64_t(bytes.size())));
    hasher.update(part);
    MOEPLAN_TRY(file.writeAt(offset, part));
    offset += part.size();
    copied(part.size());
  }
  return hasher.digest();
}

} // namespace

Result<PatchReport> writePatch(const Artifact &before, const Artifact &after, PendingFile &file,
                               const ByteProgress &progress) {
  PatchReport report;
  const auto &segments = *after.metadata().segments();
  const SegmentIndex index = indexOf(before);
  std::vector<uint32_t> sources(segments.size(), kPatchLiteral);
  const auto head =
      after.bytes().first(after.header().metadata_offset + after.header().metadata_size);
  uint64_t total = 0, literalBytes = 0, done = 0;
  for (const fb::Segment *segment : segments)
    total += segment->synthetic() ? 0 : segment->extent()->stored_bytes();
  for (uint32_t i = 0; i < segments.size(); ++i) {
    if (segments.Get(i)->synthetic())
      continue;
    const std::span<const std::byte> bytes = after.stored(i);
    sources[i] = sourceOf(before, index, *segments.Get(i), bytes);
    if (sources[i] != kPatchLiteral)
      before.release(sources[i]);
    after.release(bytes);
    if (sources[i] == kPatchLiteral)
      literalBytes += bytes.size();
    else if (progress)
      progress(done += bytes.size(), total);
    ++(sources[i] == kPatchLiteral ? report.added : report.copied);
  }
  PatchHeader header{};
  std::memcpy(header.magic, kPatchMagic, sizeof(kPatchMagic));
  header.version = kPatchVersion;
  header.header_size = sizeof(header);
  header.old_checksum = before.header().checksum;
  header.head_bytes = head.size();
  header.segments = sources.size();
  const auto sourceBytes = std::as_bytes(std::span(sources));
  header.file_bytes = sizeof(header) + head.size() + sourceBytes.size() + literalBytes;
  header.checksum = checksumOf(header, head, sourceBytes);
  MOEPLAN_TRY(file.checkSpace(header.file_bytes));
  MOEPLAN_TRY(file.write(bytesOf(header)));
  MOEPLAN_TRY(file.write(head));
  MOEPLAN_TRY(file.write(sourceBytes));
  for (uint32_t i = 0; i < segments.size(); ++i)
    if (sources[i] == kPatchLiteral && !segments.Get(i)->synthetic()) {
      MOEPLAN_TRY(file.write(after.stored(i)));
      after.release(after.stored(i));
      if (progress)
        progress(done += after.stored(i).size(), total);
    }
  report.fileBytes = file.position();
  return report;
}

Result<PatchReport> applyPatch(const Artifact &before, const std::string &patchPath,
                               PendingFile &file, const ByteProgress &progress) {
  MOEPLAN_ASSIGN(const MappedFile mapped, MappedFile::open(patchPath));
  auto read = readPatch(mapped.bytes(), before);
  if (!read.ok())
    return std::move(read).status().withContext(patchPath);
  const Patch &patch = read.value();
  const auto broken = [&](const std::string &what) { return corrupt(patchPath + ": " + what); };

  // Header and metadata, with zeros behind them, are opened as an artifact: that checks them.
  ArtifactHeader header{};
  std::memcpy(&header, patch.head.data(), sizeof(header));
  if (header.file_size < patch.head.size())
    return broken("the artifact that it makes is damaged");
  MOEPLAN_TRY(file.checkSpace(header.file_size));
  MOEPLAN_TRY(file.write(patch.head));
  MOEPLAN_TRY(file.reserve(header.file_size));
  auto opened = Artifact::open(file.temporaryPath());
  if (!opened.ok())
    return broken("the artifact that it makes is damaged: " + opened.failure().message());
  const Artifact &after = *opened.value();
  const auto &segments = *after.metadata().segments();
  if (segments.size() != patch.sources.size())
    return broken("names the sources of " + std::to_string(patch.sources.size()) +
                  " segments, there are " + std::to_string(segments.size()));

  PatchReport report;
  uint64_t total = 0, done = 0;
  for (const fb::Segment *segment : segments)
    total += segment->extent()->stored_bytes();
  std::span<const std::byte> literals = patch.literals;
  const auto &beforeSegments = *before.metadata().segments();
  for (uint32_t i = 0; i < segments.size(); ++i) {
    const fb::Segment &segment = *segments.Get(i);
    if (segment.synthetic())
      continue;
    const uint64_t bytes = segment.extent()->stored_bytes();
    const uint32_t source = patch.sources[i];
    const bool isNew = source == kPatchLiteral;
    if (isNew ? literals.size() < bytes
              : source >= beforeSegments.size() || beforeSegments.Get(source)->synthetic() ||
                    before.stored(source).size() != bytes)
      return broken("has no source of segment '" + segment.name()->str() + "'");
    MOEPLAN_ASSIGN(const uint64_t digest,
                   copyTo(file, header.segment_base + segment.extent()->offset(),
                          isNew ? literals.first(bytes) : before.stored(source),
                          [&](uint64_t copied) {
                            if (progress)
                              progress(done += copied, total);
                          }));
    if (digest != segment.extent()->checksum())
      return corrupt((isNew ? patchPath : std::string("the artifact to patch")) + ": segment '" +
                     segment.name()->str() + "': checksum does not match");
    isNew ? mapped.release(literals.first(bytes)) : before.release(before.stored(source));
    if (isNew)
      literals = literals.subspan(bytes);
    ++(isNew ? report.added : report.copied);
  }
  if (!literals.empty())
    return broken("holds more than the artifact needs");
  report.fileBytes = file.position();
  return report;
}

} // namespace moeplan
