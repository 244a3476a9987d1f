#include "runtime/artifact/artifact.h"

#include "runtime/artifact/parts.h"
#include "runtime/support/hash.h"

#include <cassert>
#include <cstring>
#include <numeric>
#include <thread>
#include <zstd.h>

namespace moeplan {

namespace {

/// Limits for the FlatBuffer verifier: far above what 8x22B with many plans needs.
constexpr flatbuffers::uoffset_t kMaxDepth = 16, kMaxTables = 4'000'000;
/// Limit for what a compressed segment may claim to become, in bytes.
constexpr uint64_t kMaxDecompressedBytes = uint64_t(1) << 30;

} // namespace

Result<std::unique_ptr<Artifact>> Artifact::open(const std::string &path) {
  MOEPLAN_ASSIGN(MappedFile file, openArtifactFile(path));
  std::unique_ptr<Artifact> artifact(new Artifact(path, std::move(file)));
  if (Status status = artifact->readHeader(); !status.ok())
    return std::move(status).withContext(path);
  if (Status status = artifact->readMetadata(); !status.ok())
    return std::move(status).withContext(path);
  return artifact;
}

Status Artifact::readHeader() {
  const std::span<const std::byte> bytes = file_.bytes();
  const size_t comparable = std::min(bytes.size(), sizeof(kArtifactMagic));
  if (comparable == 0 || std::memcmp(bytes.data(), kArtifactMagic, comparable) != 0)
    return corrupt("not a .moeplan file");
  if (bytes.size() < sizeof(ArtifactHeader))
    return corrupt("cut off: " + std::to_string(bytes.size()) + " bytes, the header alone has " +
                   std::to_string(sizeof(ArtifactHeader)));
  std::memcpy(&header_, bytes.data(), sizeof(header_));
  if (header_.format_version != kFormatVersion)
    return unsupported("format version " + std::to_string(header_.format_version) +
                       ", this runtime reads version " + std::to_string(kFormatVersion));
  if (header_.header_size != sizeof(ArtifactHeader))
    return corrupt("header size " + std::to_string(header_.header_size) + ", expected " +
                   std::to_string(sizeof(ArtifactHeader)));
  if (header_.file_size != bytes.size())
    return corrupt("the file has " + std::to_string(bytes.size()) + " bytes, its header says " +
                   std::to_string(header_.file_size));
  if (header_.feature_bits & ~kKnownFeatureBits)
    return unsupported("needs features this runtime does not know; use a newer one");
  // Ranges by subtraction, never by a sum that could wrap around.
  if (header_.metadata_offset != sizeof(ArtifactHeader) ||
      header_.metadata_size > bytes.size() - header_.metadata_offset ||
      header_.metadata_size > FLATBUFFERS_MAX_BUFFER_SIZE)
    return corrupt("metadata lies outside the file");
  if (header_.segment_base % kMappedAlignment != 0 || header_.segment_base > bytes.size() ||
      header_.segment_base < header_.metadata_offset + header_.metadata_size)
    return corrupt("segments lie outside the file");
  return {};
}

Status Artifact::readMetadata() {
  const auto *bytes = reinterpret_cast<const uint8_t *>(file_.bytes().data());
  const uint8_t *metadata = bytes + header_.metadata_offset;
  Hasher hasher;
  hasher.update(bytes, offsetof(ArtifactHeader, checksum));
  hasher.update(metadata, header_.metadata_size);
  if (hasher.digest() != header_.checksum)
    return corrupt("checksum of header and metadata does not match: the file is damaged");
  flatbuffers::Verifier verifier(metadata, header_.metadata_size, kMaxDepth, kMaxTables);
  if (!fb::VerifyArtifactBuffer(verifier))
    return corrupt("metadata is not a valid FlatBuffer of this schema");
  metadata_ = fb::GetArtifact(metadata);
  MOEPLAN_TRY(validateMetadata(*metadata_, header_));
  synthetic_ = SyntheticWeights(*metadata_);
  return {};
}

std::span<const std::byte> Artifact::stored(uint32_t index) const {
  const fb::Extent *extent = metadata_->segments()->Get(index)->extent();
  return file_.bytes()
      .subspan(header_.segment_base)
      .subspan(extent->offset(), extent->stored_bytes());
}

Status Artifact::prepareWeights(unsigned threads, const fb::Plan *plan) const {
  if (!syntheticSeed())
    return {};
  std::vector<uint32_t> segments;
  if (plan) {
    segments = weightsInProgramOrder(*metadata_, plan);
    for (const fb::Expert *expert : *plan->experts()) // whether a program reads them or not
      segments.insert(segments.end(), {expert->w1(), expert->w3(), expert->w2()});
  } else {
    segments.resize(metadata_->segments()->size());
    std::iota(segments.begin(), segments.end(), 0);
  }
  const std::lock_guard lock(syntheticMutex_);
  return synthetic_.generate(*metadata_, generator(), segments, threads).withContext(path_);
}

std::span<const std::byte> Artifact::weight(uint32_t index) const {
  const fb::Segment *segment = metadata_->segments()->Get(index);
  assert(segment->kind() == fb::SegmentKind::weight);
  if (segment->synthetic()) {
    assert(!synthetic_[index].empty());
    return synthetic_[index];
  }
  return loaded_[index].empty() ? stored(index) : loaded_[index];
}

const SyntheticGenerator &Artifact::generator() const {
  std::call_once(generatorOnce_, [&] { generator_ = syntheticGeneratorOf(*metadata_); });
  return *generator_;
}

bool Artifact::hasBytes(uint32_t index) const {
  if (!metadata_->segments()->Get(index)->synthetic())
    return true;
  const std::lock_guard lock(syntheticMutex_);
  return !synthetic_[index].empty();
}

void Artifact::generate(uint32_t index, uint64_t begin, std::span<std::byte> out) const {
  generator().fill(syntheticWeightOf(*metadata_->segments()->Get(index)), begin, out);
}

moeplan_synthetic_copy Artifact::generationOf(uint32_t index) const {
  return generator().copyOf(syntheticWeightOf(*metadata_->segments()->Get(index)));
}

std::span<const std::byte> Artifact::generationPool(uint32_t index) const {
  return generator().poolOf(syntheticWeightOf(*metadata_->segments()->Get(index)));
}

Status Artifact::read(uint32_t index, uint64_t begin, std::span<std::byte> out) const {
  if (isMapped(index)) {
    std::call_once(readerOnce_, [&] {
      FileReader reader(file_);
      if (reader.openAll(FileReader::Mode::cached).ok())
        reader_ = std::move(reader);
    });
    if (reader_)
      return reader_->read(
          static_cast<uint64_t>(stored(index).data() - file_.bytes().data()) + begin, out);
    MOEPLAN_TRY(bringIn(index, begin, out.size()));
  }
  std::memcpy(out.data(), weight(index).data() + begin, out.size());
  return {};
}

Status Artifact::loadWeights(const LoadOptions &options) {
  if (syntheticSeed())
    return prepareWeights(options.threads ? options.threads : std::thread::hardware_concurrency(),
                          options.plan);
  auto loaded = LoadedWeights::load(*metadata_, file_, header_.segment_base, options);
  if (!loaded.ok())
    return std::move(loaded).status();
  loaded_ = std::move(loaded).value();
  return {};
}

void Artifact::readAhead(uint32_t index) const {
  if (isMapped(index))
    file_.readAhead(stored(index));
}

Status Artifact::bringIn(uint32_t index, uint64_t begin, uint64_t bytes) const {
  if (!isMapped(index))
    return {};
  return file_.bringIn(stored(index).subspan(begin, bytes)).withContext(path_);
}

void Artifact::release(uint32_t index) const {
  if (isMapped(index))
    file_.release(stored(index));
}

Result<std::vector<std::byte>> Artifact::load(uint32_t index) const {
  const fb::Segment *segment = metadata_->segments()->Get(index);
  const std::span<const std::byte> bytes = stored(index);
  const std::string name = segment->name()->str();
  if (XXH3_64bits(bytes.data(), bytes.size()) != segment->extent()->checksum())
    return corrupt("segment '" + name + "': checksum does not match");
  if (segment->compression() == fb::Compression::none)
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  const uint64_t size = segment->extent()->bytes();
  if (size > kMaxDecompressedBytes)
    return corrupt("segment '" + name + "': claims " + std::to_string(size) + " bytes");
  std::vector<std::byte> out(size);
  const size_t got = ZSTD_decompress(out.data(), out.size(), bytes.data(), bytes.size());
  if (ZSTD_isError(got))
    return corrupt("segment '" + name + "': " + ZSTD_getErrorName(got));
  if (got != size)
    return corrupt("segment '" + name + "': decompresses to " + std::to_string(got) + " bytes, " +
                   std::to_string(size) + " stated");
  return out;
}

Result<const fb::Plan *> Artifact::plan(const char *name) const {
  std::string known;
  for (const fb::Plan *plan : *metadata_->plans()) {
    if (!name || plan->name()->string_view() == name)
      return plan;
    known += (known.empty() ? "'" : ", '") + plan->name()->str() + "'";
  }
  return notFound(std::string("no plan '") + name + "'; the artifact has " + known);
}

} // namespace moeplan
