#include "compiler/pack/pack.h"

#include "artifact_header.h"
#include "dialects/plan/PlanDialect.h"
#include "formats.h"
#include "runtime/support/hash.h"

#include "llvm/Support/MathExtras.h"

#include <cstring>
#include <zstd.h>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

bool givesHostWork(mlir::ModuleOp module) {
  return module
      .walk([](plan::ProgramOp program) {
        return program.getPinnedBytes() ? mlir::WalkResult::interrupt()
                                        : mlir::WalkResult::advance();
      })
      .wasInterrupted();
}

constexpr int kZstdLevel = 19;
/// Hexadecimal digits of a digest: what it will take before it is known.
constexpr size_t kDigestDigits = 32;

ArrayRef<uint8_t> bytesOf(StringRef text) {
  return {reinterpret_cast<const uint8_t *>(text.data()), text.size()};
}

Expected<PackedSegment> compress(std::string name, PackedSegment::Kind kind,
                                 ArrayRef<uint8_t> bytes) {
  PackedSegment segment{std::move(name), kind, {}, bytes.size()};
  segment.stored.resize(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress(segment.stored.data(), segment.stored.size(), bytes.data(),
                                    bytes.size(), kZstdLevel);
  if (ZSTD_isError(size))
    return createStringError(segment.name + ": zstd: " + ZSTD_getErrorName(size));
  segment.stored.resize(size);
  return segment;
}

class Packer {
public:
  Packer(mlir::ModuleOp module, ArrayRef<KernelLibrary> libraries,
         ArrayRef<CudaLibrary> cudaLibraries, Provenance &provenance, const PolicyFacts &facts,
         const WeightStreamTools &tools, const CompleteFacts &complete)
      : module(module), checkpoint(tools.checkpoint), libraries(libraries),
        cudaLibraries(cudaLibraries), provenance(provenance), facts(facts), tools(tools),
        file(tools.file), complete(complete), weights(to_vector(module.getOps<plan::SegmentOp>())),
        kernels(collectKernels(module)) {}

  Expected<PackReport> run() {
    if (Error error = compressSegments())
      return error;
    layOut();
    provenance.checkpointDigest.resize(kDigestDigits, '0');
    const uint64_t metadataBytes = metadata().size();
    const uint64_t base = alignTo(sizeof(ArtifactHeader) + metadataBytes, kMappedAlignment);
    if (Error error = file.checkSpace(base + fileEnd))
      return error;
    if (Error error = file.reserve(base + fileEnd))
      return error;
    if (Error error = writeSegments(base))
      return error;
    auto digest = tools.digest.ofAll();
    if (!digest)
      return digest.takeError();
    provenance.checkpointDigest = std::move(*digest);
    if (Error error = writeHead(base, metadataBytes))
      return error;
    if (complete) {
      if (Error error = complete(file.temporaryPath()))
        return error;
      if (Error error = writeHead(base, metadataBytes))
        return error;
    }
    report.fileBytes = file.position();
    if (Error error = file.commit())
      return error;
    return report;
  }

private:
  Error compressSegments() {
    for (const KernelLibrary &library : libraries) {
      auto code = compress("kernels@" + library.target.cpu, PackedSegment::Kind::Code,
                           bytesOf(library.elf));
      if (!code)
        return code.takeError();
      packed.push_back(std::move(*code));
    }
    for (const CudaLibrary &library : cudaLibraries) {
      auto code =
          compress("kernels@" + library.target, PackedSegment::Kind::Code, bytesOf(library.code));
      if (!code)
        return code.takeError();
      packed.push_back(std::move(*code));
    }
    if (checkpoint.tokenizer().empty())
      return Error::success();
    auto tokenizer = compress("tokenizer", PackedSegment::Kind::Tokenizer, checkpoint.tokenizer());
    if (!tokenizer)
      return tokenizer.takeError();
    packed.push_back(std::move(*tokenizer));
    return Error::success();
  }

  /// Gives every segment its place behind the segment base.
  void layOut() {
    uint64_t end = 0;
    auto place = [&](uint64_t storedBytes, uint64_t bytes, uint64_t alignment) {
      const uint64_t offset = alignTo(end, alignment);
      extents.push_back({offset, storedBytes, bytes, 0});
      end = offset + storedBytes;
    };
    for (const PackedSegment &segment : packed)
      place(segment.stored.size(), segment.bytes, kPackedAlignment);
    for (plan::SegmentOp segment : weights) {
      if (checkpoint.syntheticSeed()) {
        extents.push_back({.bytes = uint64_t(segment.getBytes())});
        continue;
      }
      place(segment.getBytes(), segment.getBytes(), kMappedAlignment);
    }
    fileEnd = end;
  }

  std::vector<uint8_t> metadata() const {
    return buildMetadata({module, kernels, libraries, cudaLibraries, packed, extents, provenance,
                          checkpoint.syntheticSeed(), facts});
  }

  Error writeSegments(uint64_t base) {
    for (auto [index, segment] : enumerate(packed)) {
      Hasher hasher;
      hasher.update(segment.stored.data(), segment.stored.size());
      extents[index].checksum = hasher.digest();
      if (Error error = file.writeAt(base + extents[index].offset, segment.stored))
        return error;
    }
    return checkpoint.syntheticSeed() ? Error::success() : writeWeights(base);
  }

  Error writeWeights(uint64_t base) {
    std::vector<StreamedWeight> streamed;
    for (auto [segment, extent] : zip_equal(weights, weightExtents()))
      streamed.push_back({segment.getSymName().split('@').first.str(),
                          &checkpoint.tensors().at(segment.getSource().str()),
                          findFormat(std::string_view(segment.getFormat())), base + extent.offset,
                          extent.bytes});
    auto written = streamWeights(streamed, tools);
    if (!written)
      return written.takeError();
    report.weights = *written;
    for (auto [weight, extent] : zip_equal(streamed, weightExtents()))
      extent.checksum = weight.checksum;
    return Error::success();
  }
  MutableArrayRef<SegmentExtent> weightExtents() {
    return MutableArrayRef(extents).drop_front(packed.size());
  }

  /// The header and, with the checksums now known, the metadata.
  Error writeHead(uint64_t base, uint64_t metadataBytes) {
    const std::vector<uint8_t> bytes = metadata();
    if (bytes.size() != metadataBytes)
      return createStringError("internal: the metadata changed its size");
    ArtifactHeader header{};
    std::memcpy(header.magic, kArtifactMagic, sizeof(header.magic));
    header.format_version = kFormatVersion;
    header.header_size = sizeof(header);
    header.metadata_offset = sizeof(header);
    header.metadata_size = metadataBytes;
    header.segment_base = base;
    header.file_size = file.position();
    header.feature_bits = (checkpoint.tokenizer().empty() ? kFeatureNoTokenizer : 0) |
                          (checkpoint.syntheticSeed() ? kFeatureSyntheticWeights : 0) |
                          (cudaLibraries.empty() ? 0 : kFeatureDeviceKernels) |
                          (givesHostWork(module) ? kFeatureHostWork : 0);
    Hasher hasher;
    hasher.update(&header, offsetof(ArtifactHeader, checksum));
    hasher.update(bytes.data(), bytes.size());
    header.checksum = hasher.digest();
    if (Error error = file.writeAt(0, {reinterpret_cast<const uint8_t *>(&header), sizeof(header)}))
      return error;
    return file.writeAt(sizeof(header), bytes);
  }

  mlir::ModuleOp module;
  const Checkpoint &checkpoint;
  ArrayRef<KernelLibrary> libraries;
  ArrayRef<CudaLibrary> cudaLibraries;
  Provenance &provenance;
  const PolicyFacts &facts;
  const WeightStreamTools &tools;
  AtomicFile &file;
  const CompleteFacts &complete;
  SmallVector<plan::SegmentOp> weights;
  std::vector<KernelSpec> kernels;
  std::vector<PackedSegment> packed;
  std::vector<SegmentExtent> extents;
  uint64_t fileEnd = 0; ///< of the last segment, behind the segment base
  PackReport report;
};

} // namespace

Expected<PackReport>
moeplan::compiler::packArtifact(mlir::ModuleOp module, ArrayRef<KernelLibrary> libraries,
                                ArrayRef<CudaLibrary> cudaLibraries, Provenance &provenance,
                                const PolicyFacts &facts, const WeightStreamTools &tools,
                                const CompleteFacts &complete) {
  return Packer(module, libraries, cudaLibraries, provenance, facts, tools, complete).run();
}
