#include "artifact_builder.h"

#include "files.h"
#include "formats.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <xxhash.h>

namespace moeplan::testing {

namespace {

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

constexpr uint64_t alignTo(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

Offset<fb::Model> buildModel(FlatBufferBuilder &builder, const ModelDraft &model) {
  return fb::CreateModel(builder, builder.CreateString("mixtral"), model.vocabSize,
                         model.hiddenSize, model.intermediateSize, model.numLayers,
                         model.numAttentionHeads, model.numKeyValueHeads, model.headDim,
                         model.numExperts, model.numExpertsPerTok, 1e-5, 1e6, 0,
                         model.maxPositionEmbeddings, false, 1,
                         builder.CreateVector(std::vector<int32_t>{2}), model.kvCacheFormat);
}

Offset<fb::Program> buildProgram(FlatBufferBuilder &builder, const ProgramDraft &program) {
  std::vector<fb::Command> kinds;
  std::vector<Offset<void>> commands;
  for (const CommandDraft &command : program.commands) {
    kinds.push_back(command.kind);
    const std::vector<fb::Binding> &bindings = command.bindings;
    if (command.kind == fb::Command::Dispatch)
      commands.push_back(fb::CreateDispatch(builder, command.kernel, command.tiles,
                                            command.perToken,
                                            builder.CreateVectorOfStructs(bindings))
                             .Union());
    else if (command.kind == fb::Command::Copy)
      commands.push_back(fb::CreateCopy(builder, &bindings[0], &bindings[1]).Union());
    else if (command.kind == fb::Command::Join)
      commands.push_back(fb::CreateJoin(builder).Union());
    else
      commands.push_back(fb::CreateBarrier(builder).Union());
  }
  const auto kindVector = builder.CreateVector(kinds);
  return fb::CreateProgram(builder, builder.CreateString(program.name), program.maxTokens,
                           program.arenaBytes, 0, kindVector, builder.CreateVector(commands),
                           program.pinnedArenaBytes);
}

/// Absent where it is empty.
Offset<flatbuffers::String> optionalString(FlatBufferBuilder &builder, const std::string &text) {
  return text.empty() ? Offset<flatbuffers::String>() : builder.CreateString(text);
}

Offset<fb::Memory> buildMemory(FlatBufferBuilder &builder,
                               const std::optional<MemoryDraft> &memory) {
  if (!memory)
    return {};
  return fb::CreateMemory(builder, memory->weights, memory->kvCache, memory->activations,
                          memory->staging, memory->context);
}

Offset<fb::Prediction> buildPrediction(FlatBufferBuilder &builder,
                                       const std::optional<PredictionDraft> &prediction) {
  if (!prediction)
    return {};
  const auto device = buildMemory(builder, prediction->device);
  const auto host = buildMemory(builder, prediction->host);
  const auto digest = optionalString(builder, prediction->profileDigest);
  return fb::CreatePrediction(builder, prediction->perplexityIncrease, prediction->tokensPerSecond,
                              prediction->prefillTokensPerSecond, device, host, prediction->context,
                              prediction->batch, digest);
}

Offset<fb::CanaryScore> buildCanaryScore(FlatBufferBuilder &builder,
                                         const std::optional<CanaryScoreDraft> &score) {
  return score ? fb::CreateCanaryScore(builder, builder.CreateVector(score->logLikelihoods),
                                       score->digest, score->divergence)
               : Offset<fb::CanaryScore>();
}

Offset<fb::Canary> buildCanary(FlatBufferBuilder &builder, const CanaryDraft &canary) {
  if (!canary.text)
    return fb::CreateCanary(builder, canary.tokens, canary.everyTokens,
                            canary.maxPerplexityIncrease, canary.maxDivergence);
  const CanaryTextDraft &text = *canary.text;
  const auto ids = builder.CreateVector(text.ids);
  const auto likelihoods = builder.CreateVector(text.logLikelihoods);
  const auto topTokens = builder.CreateVector(text.topTokens);
  const auto topProbabilities = builder.CreateVector(text.topLogProbabilities);
  return fb::CreateCanary(builder, canary.tokens, canary.everyTokens, canary.maxPerplexityIncrease,
                          canary.maxDivergence, ids, text.library, likelihoods, text.top, topTokens,
                          topProbabilities);
}

Offset<fb::Plan> buildPlan(FlatBufferBuilder &builder, const PlanDraft &plan) {
  std::vector<Offset<fb::Program>> programs;
  for (const ProgramDraft &program : plan.programs)
    programs.push_back(buildProgram(builder, program));
  Offset<flatbuffers::Vector<Offset<fb::Program>>> devicePrograms;
  if (!plan.devicePrograms.empty()) {
    std::vector<Offset<fb::Program>> list;
    for (const ProgramDraft &program : plan.devicePrograms)
      list.push_back(buildProgram(builder, program));
    devicePrograms = builder.CreateVector(list);
  }
  const auto prediction = buildPrediction(builder, plan.prediction);
  const auto canary = buildCanaryScore(builder, plan.canary);
  return fb::CreatePlan(builder, builder.CreateString(plan.name),
                        builder.CreateVectorOfStructs(plan.experts), builder.CreateVector(programs),
                        plan.missStrategy, plan.cacheSlots, plan.prefer, plan.maxPerplexityIncrease,
                        plan.minTokensPerSecond, plan.bitsPerWeight, plan.deviceMemory,
                        plan.hostMemory, prediction, canary, devicePrograms);
}

std::vector<fb::Extent> layOut(const ArtifactDraft &draft) {
  std::vector<fb::Extent> extents;
  uint64_t end = 0;
  for (const SegmentDraft &segment : draft.segments) {
    if (segment.synthetic) {
      extents.emplace_back(0, 0, segment.bytes.value_or(0), 0);
      continue;
    }
    const uint64_t offset =
        alignTo(end, segment.kind == fb::SegmentKind::weight ? kMappedAlignment : kPackedAlignment);
    end = offset + segment.stored.size();
    extents.emplace_back(offset, segment.stored.size(),
                         segment.bytes.value_or(segment.stored.size()),
                         XXH3_64bits(segment.stored.data(), segment.stored.size()));
  }
  return extents;
}

std::vector<uint32_t> codeSizesOf(const ArtifactDraft &draft, const LibraryDraft &library) {
  if (library.codeSizes)
    return *library.codeSizes;
  std::vector<uint32_t> sizes(library.kernels.value_or(draft.kernels.size()), library.codeBytes);
  for (size_t i = 0; i < std::min(sizes.size(), draft.kernels.size()); ++i)
    if (draft.kernels[i].machine != library.machine)
      sizes[i] = 0;
  return sizes;
}

std::string buildMetadata(const ArtifactDraft &draft, const std::vector<fb::Extent> &extents) {
  FlatBufferBuilder builder;
  auto string = [&](const std::string &text) { return builder.CreateString(text); };

  std::vector<Offset<fb::Segment>> segments;
  for (size_t i = 0; i < draft.segments.size(); ++i) {
    const SegmentDraft &segment = draft.segments[i];
    Offset<flatbuffers::Vector<uint64_t>> shape;
    if (segment.shape)
      shape = builder.CreateVector(*segment.shape);
    segments.push_back(fb::CreateSegment(builder, string(segment.name), segment.kind,
                                         segment.compression, &extents[i], segment.format, shape,
                                         segment.synthetic));
  }
  std::vector<Offset<fb::Kernel>> kernels;
  for (const KernelDraft &kernel : draft.kernels) {
    std::vector<Offset<fb::Constant>> constants;
    for (const auto &[name, value] : kernel.constants)
      constants.push_back(fb::CreateConstant(builder, string(name), false, value));
    kernels.push_back(
        fb::CreateKernel(builder, string(kernel.symbol), string(kernel.implementation),
                         builder.CreateVector(constants), kernel.bindingCount, kernel.machine));
  }
  std::vector<Offset<fb::KernelLibrary>> libraries;
  for (const LibraryDraft &library : draft.libraries)
    libraries.push_back(fb::CreateKernelLibrary(
        builder, string(library.targetCpu), string(library.triple),
        builder.CreateVectorOfStrings(library.features), library.segment,
        builder.CreateVector(codeSizesOf(draft, library)), library.machine));
  std::vector<Offset<fb::Plan>> plans;
  for (const PlanDraft &plan : draft.plans)
    plans.push_back(buildPlan(builder, plan));
  Offset<fb::Canary> canary;
  if (draft.canary)
    canary = buildCanary(builder, *draft.canary);
  Offset<fb::Switching> switching;
  if (draft.switching)
    switching = fb::CreateSwitching(builder, draft.switching->bandwidthShare,
                                    draft.switching->hysteresis, draft.switching->minSeconds);
  flatbuffers::Optional<uint64_t> seed = flatbuffers::nullopt;
  if (draft.syntheticSeed)
    seed = *draft.syntheticSeed;
  const auto provenance = fb::CreateProvenance(
      builder, string("0"), string("0"), string(""), string(""), string(""),
      Offset<flatbuffers::String>(), optionalString(builder, draft.profileDigest));
  fb::FinishArtifactBuffer(
      builder, fb::CreateArtifact(builder, buildModel(builder, draft.model),
                                  builder.CreateVector(segments), builder.CreateVector(kernels),
                                  builder.CreateVector(libraries), builder.CreateVector(plans),
                                  draft.tokenizerSegment, provenance, seed, canary, switching));
  return {reinterpret_cast<const char *>(builder.GetBufferPointer()), builder.GetSize()};
}

} // namespace

ArtifactHeader headerOf(const std::string &file) {
  ArtifactHeader header;
  std::memcpy(&header, file.data(), sizeof(header));
  return header;
}

uint64_t artifactChecksum(const std::string &file) {
  const ArtifactHeader header = headerOf(file);
  std::string covered = file.substr(0, offsetof(ArtifactHeader, checksum));
  covered.append(file, header.metadata_offset, header.metadata_size);
  return XXH3_64bits(covered.data(), covered.size());
}

void sealArtifact(std::string &file, ArtifactHeader header) {
  std::memcpy(file.data(), &header, sizeof(header));
  header.checksum = artifactChecksum(file);
  std::memcpy(file.data(), &header, sizeof(header));
}

ArtifactDraft::ArtifactDraft() {
  const uint64_t downBytes = *formatBytes(*findFormat("bf16"), 4, 6);
  // An expert's matrices are shared by all experts: nothing forbids it.
  segments = {
      {"code", fb::SegmentKind::code, std::string(100, 'c'), {}, {}, {}, {}},
      {"tokenizer", fb::SegmentKind::tokenizer, std::string(10, 't'), {}, {}, {}, {}},
      {"up", fb::SegmentKind::weight, std::string(96, 'u'), {}, {}, fb::Format::f32, {{6, 4}}},
      {"down",
       fb::SegmentKind::weight,
       std::string(downBytes, 'd'),
       {},
       {},
       fb::Format::bf16,
       {{4, 6}}},
      {"norm", fb::SegmentKind::weight, std::string(16, 'n'), {}, {}, fb::Format::f32, {{4}}},
  };
  libraries = {{{}, kCode, {}}};
  const std::vector<fb::Expert> experts(4, fb::Expert(kUp, kUp, kDown, fb::Residency::host));
  plans = {{"default", experts, {{"decode", 1, 0, {}}}}};
}

uint32_t ArtifactDraft::addCudaKernel(std::string symbol, uint32_t bindingCount,
                                      std::string implementation,
                                      std::vector<std::pair<std::string, int64_t>> constants) {
  kernels.push_back({std::move(symbol), bindingCount, std::move(implementation),
                     std::move(constants), fb::Machine::cuda});
  return uint32_t(kernels.size() - 1);
}

void ArtifactDraft::addCudaLibrary(const std::string &target,
                                   const std::vector<std::string> &images) {
  std::string code;
  std::vector<uint32_t> sizes;
  for (size_t i = 0, image = 0; i < kernels.size(); ++i) {
    sizes.push_back(0);
    if (kernels[i].machine != fb::Machine::cuda || image == images.size())
      continue;
    code.resize(alignTo(code.size(), 16));
    code += images[image];
    sizes.back() = uint32_t(images[image++].size());
  }
  libraries.push_back({.features = {},
                       .segment = uint32_t(segments.size()),
                       .kernels = {},
                       .machine = fb::Machine::cuda,
                       .targetCpu = target,
                       .triple = "nvptx64-nvidia-cuda",
                       .codeSizes = sizes});
  segments.push_back({"kernels@" + target, fb::SegmentKind::code, code, {}, {}, {}, {}});
}

ProgramDraft &ArtifactDraft::addDeviceProgram(std::string name, uint32_t maxTokens) {
  model.kvCacheFormat = fb::KvFormat::bf16;
  return plans[0].devicePrograms.emplace_back(ProgramDraft{std::move(name), maxTokens, 0, {}});
}

void ArtifactDraft::makeSynthetic(uint32_t segment) {
  segments[segment].bytes = segments[segment].stored.size();
  segments[segment].stored.clear();
  segments[segment].synthetic = true;
  syntheticSeed = syntheticSeed.value_or(7);
}

std::string ArtifactDraft::build() const {
  std::vector<fb::Extent> placed = layOut(*this);
  std::vector<fb::Extent> stated = placed;
  for (const auto &[index, extent] : extents)
    stated[index] = extent;
  const std::string metadata = buildMetadata(*this, stated);

  ArtifactHeader header{};
  std::memcpy(header.magic, kArtifactMagic, sizeof(header.magic));
  header.format_version = kFormatVersion;
  header.header_size = sizeof(header);
  header.metadata_offset = sizeof(header);
  header.metadata_size = metadata.size();
  header.segment_base = alignTo(sizeof(header) + metadata.size(), kMappedAlignment);
  header.feature_bits = featureBits.value_or(
      (tokenizerSegment == kNoTokenizer ? kFeatureNoTokenizer : 0) |
      (syntheticSeed ? kFeatureSyntheticWeights : 0) |
      (std::ranges::any_of(
           kernels, [](const KernelDraft &kernel) { return kernel.machine != fb::Machine::cpu; })
           ? kFeatureDeviceKernels
           : 0) |
      (std::ranges::any_of(plans,
                           [](const PlanDraft &plan) {
                             return std::ranges::any_of(plan.devicePrograms,
                                                        [](const ProgramDraft &program) {
                                                          return program.pinnedArenaBytes > 0;
                                                        });
                           })
           ? kFeatureHostWork
           : 0));
  std::string file(sizeof(header), '\0');
  file += metadata;
  for (size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].synthetic)
      continue;
    file.resize(header.segment_base + placed[i].offset());
    file += segments[i].stored;
  }
  header.file_size = file.size();
  sealArtifact(file, header);
  return file;
}

void ArtifactDraft::write(const std::filesystem::path &path) const { writeFile(path, build()); }

} // namespace moeplan::testing
