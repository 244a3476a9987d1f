#include "compiler/pack/pack.h"

#include "artifact_header.h"
#include "compiler/quantize/convert.h"
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

constexpr int kZstdLevel = 19;
/// Numbers converted at a time: bounds memory and keeps the conversion in cache.
constexpr uint64_t kElementsPerPart = 1 << 20;

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
  Packer(mlir::ModuleOp module, const Checkpoint &checkpoint, ArrayRef<KernelLibrary> libraries,
         ArrayRef<CudaLibrary> cudaLibraries, const Provenance &provenance,
         const PolicyFacts &facts, WeightQuantizer &quantizer, const PackProgress &progress,
         const CompleteFacts &complete)
      : module(module), checkpoint(checkpoint), libraries(libraries), cudaLibraries(cudaLibraries),
        provenance(provenance), facts(facts), quantizer(quantizer), progress(progress),
        complete(complete), weights(to_vector(module.getOps<plan::SegmentOp>())),
        kernels(collectKernels(module)) {}

  Expected<uint64_t> run(AtomicFile &file) {
    if (Error error = compressSegments())
      return error;
    layOut();
    const uint64_t metadataBytes = metadata().size();
    const uint64_t base = alignTo(sizeof(ArtifactHeader) + metadataBytes, kMappedAlignment);
    if (Error error = file.checkSpace(base + fileEnd))
      return error;
    if (Error error = file.padTo(base))
      return error;
    if (Error error = writeSegments(file, base))
      return error;
    if (Error error = writeHead(file, base, metadataBytes))
      return error;
    if (complete) {
      if (Error error = complete(file.temporaryPath()))
        return error;
      if (Error error = writeHead(file, base, metadataBytes))
        return error;
    }
    const uint64_t fileBytes = file.position();
    if (Error error = file.commit())
      return error;
    return fileBytes;
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
      weightBytes += segment.getBytes();
    }
    fileEnd = end;
  }

  std::vector<uint8_t> metadata() const {
    return buildMetadata({module, kernels, libraries, cudaLibraries, packed, extents, provenance,
                          checkpoint.syntheticSeed(), facts});
  }

  Error writeSegments(AtomicFile &file, uint64_t base) {
    for (auto [index, segment] : enumerate(packed)) {
      if (Error error = file.padTo(base + extents[index].offset))
        return error;
      Hasher hasher;
      hasher.update(segment.stored.data(), segment.stored.size());
      extents[index].checksum = hasher.digest();
      if (Error error = file.write(segment.stored))
        return error;
    }
    if (checkpoint.syntheticSeed())
      return Error::success();
    for (auto [index, segment] : enumerate(weights)) {
      SegmentExtent &extent = extents[packed.size() + index];
      if (Error error = file.padTo(base + extent.offset))
        return error;
      if (Error error = writeWeight(file, segment, extent))
        return error;
    }
    return Error::success();
  }

  Error writeWeight(AtomicFile &file, plan::SegmentOp segment, SegmentExtent &extent) {
    const TensorInfo &tensor = checkpoint.tensors().at(segment.getSource().str());
    const FormatInfo &format = *findFormat(std::string_view(segment.getFormat()));
    if (format.isPacked())
      return writeQuantized(file, segment, extent, tensor, format);
    const uint8_t *in = checkpoint.bytes(tensor).data();
    const uint64_t columns = tensor.shape.back();
    const uint64_t rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
    // Whole tiles of rows at a time: packed, they follow each other as the rows do.
    const uint64_t stripRows =
        std::max<uint64_t>(kElementsPerPart / columns / MOEPLAN_TILE_ROWS, 1) * MOEPLAN_TILE_ROWS;
    std::vector<uint8_t> elements, part;
    Hasher hasher;
    for (uint64_t row = 0; row < rows; row += stripRows) {
      const uint64_t count = std::min(stripRows, rows - row);
      elements.resize(count * columns * format.bits / 8);
      convertElements(tensor.dtype, in + row * columns * dtypeBytes(tensor.dtype), count * columns,
                      format, elements.data());
      part.resize(*formatBytes(format, count, columns));
      format.packing->pack({format.bits, format.groupSize, count, columns},
                           {elements.data(), nullptr, nullptr}, part.data());
      hasher.update(part.data(), part.size());
      if (Error error = file.write(part))
        return error;
      weightBytesDone += part.size();
      if (progress)
        progress(weightBytesDone, weightBytes);
    }
    extent.checksum = hasher.digest();
    checkpoint.release(tensor);
    return Error::success();
  }

  Error writeQuantized(AtomicFile &file, plan::SegmentOp segment, SegmentExtent &extent,
                       const TensorInfo &tensor, const FormatInfo &format) {
    const TensorView view{tensor.name, tensor.dtype, checkpoint.bytes(tensor).data(),
                          tensor.shape[0], tensor.shape[1]};
    std::vector<uint8_t> bytes(segment.getBytes());
    const StringRef name = segment.getSymName().split('@').first;
    if (Error error = quantizer.quantize(name, view, format, bytes))
      return error;
    checkpoint.release(tensor);
    Hasher hasher;
    hasher.update(bytes.data(), bytes.size());
    extent.checksum = hasher.digest();
    weightBytesDone += bytes.size();
    if (progress)
      progress(weightBytesDone, weightBytes);
    return file.write(bytes);
  }

  /// The header and, with the checksums now known, the metadata.
  Error writeHead(AtomicFile &file, uint64_t base, uint64_t metadataBytes) {
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
                          (cudaLibraries.empty() ? 0 : kFeatureDeviceKernels);
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
  const Provenance &provenance;
  const PolicyFacts &facts;
  WeightQuantizer &quantizer;
  const PackProgress &progress;
  const CompleteFacts &complete;
  SmallVector<plan::SegmentOp> weights;
  std::vector<KernelSpec> kernels;
  std::vector<PackedSegment> packed;
  std::vector<SegmentExtent> extents;
  uint64_t weightBytes = 0, weightBytesDone = 0;
  uint64_t fileEnd = 0; ///< of the last segment, behind the segment base
};

} // namespace

Expected<uint64_t> moeplan::compiler::packArtifact(
    mlir::ModuleOp module, const Checkpoint &checkpoint, ArrayRef<KernelLibrary> libraries,
    ArrayRef<CudaLibrary> cudaLibraries, const Provenance &provenance, const PolicyFacts &facts,
    WeightQuantizer &quantizer, AtomicFile &file, const PackProgress &progress,
    const CompleteFacts &complete) {
  return Packer(module, checkpoint, libraries, cudaLibraries, provenance, facts, quantizer,
                progress, complete)
      .run(file);
}
