// Artifacts written by hand, right or wrong in one place, without the compiler.
#pragma once

#include "artifact_header.h"
#include "moeplan_generated.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moeplan::testing {

/// The checksum that makes the header and metadata in `file` (a whole artifact) valid.
uint64_t artifactChecksum(const std::string &file);
/// Stores `header` into `file`, with the checksum that fits.
void sealArtifact(std::string &file, ArtifactHeader header);
ArtifactHeader headerOf(const std::string &file);

struct SegmentDraft {
  std::string name;
  fb::SegmentKind kind = fb::SegmentKind::weight;
  std::string stored;            ///< bytes in the file
  std::optional<uint64_t> bytes; ///< once decompressed; absent: as stored
  fb::Compression compression = fb::Compression::none;
  fb::Format format = fb::Format::none;
  std::optional<std::vector<uint64_t>> shape;
  bool synthetic = false; ///< of `bytes` bytes; `stored` is empty
};

struct KernelDraft {
  std::string symbol;
  uint32_t bindingCount = 0;
  std::string implementation = "test";
  std::vector<std::pair<std::string, int64_t>> constants = {};
  fb::Machine machine = fb::Machine::cpu;
};

struct LibraryDraft {
  std::vector<std::string> features;
  uint32_t segment = 0;
  std::optional<uint32_t> kernels; ///< entries of code_bytes; absent: as many as there are kernels
  uint32_t codeBytes = 1;          ///< each of these entries, 0 for kernels of other machines
  fb::Machine machine = fb::Machine::cpu;
  std::string targetCpu = "test";
  std::string triple = "x86_64-pc-linux-gnu";
  std::optional<std::vector<uint32_t>> codeSizes = {}; ///< in place of all entries of code_bytes
};

/// A dispatch, a copy (bindings: source, target), a barrier or a join.
struct CommandDraft {
  fb::Command kind = fb::Command::Barrier;
  uint32_t kernel = 0;
  uint32_t tiles = 1;
  bool perToken = false;
  std::vector<fb::Binding> bindings = {};
};

struct ProgramDraft {
  std::string name;
  uint32_t maxTokens = 1;
  uint64_t arenaBytes = 0;
  std::vector<CommandDraft> commands;
  uint64_t pinnedArenaBytes = 0;
};

struct MemoryDraft {
  uint64_t weights = 0;
  uint64_t kvCache = 0;
  uint64_t activations = 0;
  uint64_t staging = 0;
  uint64_t context = 0;
};

struct PredictionDraft {
  double perplexityIncrease = 0;
  double tokensPerSecond = 0;
  double prefillTokensPerSecond = 0;
  std::optional<MemoryDraft> device = {}, host = {};
  uint32_t context = 0;
  uint32_t batch = 0;
  std::string profileDigest = {}; ///< empty: absent
};

/// Of the text of CanaryTextDraft, unless a test says otherwise.
struct CanaryScoreDraft {
  std::vector<float> logLikelihoods = {-1.5f, -2.5f};
  uint64_t digest = 7;
  double divergence = 0.25;
};

struct PlanDraft {
  std::string name;
  std::vector<fb::Expert> experts;
  std::vector<ProgramDraft> programs;
  fb::MissStrategy missStrategy = fb::MissStrategy::none;
  uint32_t cacheSlots = 0;
  fb::Preference prefer = fb::Preference::none;
  flatbuffers::Optional<double> maxPerplexityIncrease = {};
  flatbuffers::Optional<double> minTokensPerSecond = {};
  flatbuffers::Optional<double> bitsPerWeight = {};
  flatbuffers::Optional<uint64_t> deviceMemory = {};
  flatbuffers::Optional<uint64_t> hostMemory = {};
  std::optional<PredictionDraft> prediction = {};
  std::optional<CanaryScoreDraft> canary = {};
  std::vector<ProgramDraft> devicePrograms = {};
};

/// Three tokens, of which two are predicted, and the two likeliest at each.
struct CanaryTextDraft {
  std::vector<int32_t> ids = {1, 2, 3};
  uint32_t library = 0;
  std::vector<float> logLikelihoods = {-1, -2};
  uint32_t top = 2;
  std::vector<uint32_t> topTokens = {2, 4, 5, 3};
  std::vector<float> topLogProbabilities = {-1, -1.5f, -1.25f, -2};
};

struct CanaryDraft {
  uint32_t tokens = 256;
  uint64_t everyTokens = 0;
  flatbuffers::Optional<double> maxPerplexityIncrease = {};
  flatbuffers::Optional<double> maxDivergence = {};
  std::optional<CanaryTextDraft> text = {};
};

struct SwitchingDraft {
  double bandwidthShare = 0.5;
  double hysteresis = 0.05;
  double minSeconds = 10;
};

struct ModelDraft {
  uint32_t vocabSize = 8;
  uint32_t hiddenSize = 4;
  uint32_t intermediateSize = 6;
  uint32_t numLayers = 2;
  uint32_t numAttentionHeads = 2;
  uint32_t numKeyValueHeads = 1;
  uint32_t headDim = 2;
  uint32_t numExperts = 2;
  uint32_t numExpertsPerTok = 1;
  uint32_t maxPositionEmbeddings = 16;
  fb::KvFormat kvCacheFormat = fb::KvFormat::f32;
};

/// What an artifact is made of. As constructed it breaks no rule: a model of two layers whose plan
/// `default` has one program `decode` without commands.
struct ArtifactDraft {
  ArtifactDraft();

  enum Segment : uint32_t { kCode, kTokenizer, kUp, kDown, kNorm };

  ModelDraft model;
  std::vector<SegmentDraft> segments; ///< in the order of `Segment`
  std::vector<KernelDraft> kernels;
  std::vector<LibraryDraft> libraries;
  std::vector<PlanDraft> plans;
  uint32_t tokenizerSegment = kTokenizer;
  std::optional<uint64_t> syntheticSeed;
  std::optional<CanaryDraft> canary;
  std::optional<SwitchingDraft> switching;
  std::string profileDigest;           ///< empty: absent
  std::optional<uint64_t> featureBits; ///< absent: those of the features in use
  /// Replaces what the layout gave a segment.
  std::vector<std::pair<uint32_t, fb::Extent>> extents;

  ProgramDraft &program() { return plans[0].programs[0]; }

  /// Adds a kernel for CUDA devices; returns its index.
  uint32_t
  addCudaKernel(std::string symbol, uint32_t bindingCount, std::string implementation = "test",
                std::vector<std::pair<std::string, int64_t>> constants = {{"threads", 128}});
  /// Adds a library of `images`, one for each cuda kernel so far, and its segment "kernels@TARGET".
  void addCudaLibrary(const std::string &target, const std::vector<std::string> &images);
  /// Adds a device program to the first plan; the KV cache becomes bf16, as such programs need it.
  ProgramDraft &addDeviceProgram(std::string name = "device_decode", uint32_t maxTokens = 1);

  /// Lets a weight be generated instead of stored, from the seed 7 unless another is set.
  void makeSynthetic(uint32_t segment);

  /// The whole file, with right checksums.
  std::string build() const;
  void write(const std::filesystem::path &path) const;
};

/// Operands, as short to write as they are to read.
inline fb::Binding operand(fb::BindingKind kind, uint32_t index, uint64_t offset, uint64_t bytes,
                           fb::Access access = fb::Access::read) {
  return fb::Binding(kind, access, index, offset, bytes);
}
inline fb::Binding arena(uint64_t offset, uint64_t bytes,
                         fb::Access access = fb::Access::read_write) {
  return operand(fb::BindingKind::arena, 0, offset, bytes, access);
}
inline CommandDraft dispatch(uint32_t kernel, uint32_t tiles, std::vector<fb::Binding> bindings,
                             bool perToken = false) {
  return {fb::Command::Dispatch, kernel, tiles, perToken, std::move(bindings)};
}
inline CommandDraft copy(fb::Binding source, fb::Binding target) {
  return {fb::Command::Copy, 0, 0, false, {source, target}};
}
inline CommandDraft barrier() { return {}; }

} // namespace moeplan::testing
