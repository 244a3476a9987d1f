#include "runtime/artifact/artifact.h"

#include "formats.h"
#include "kv_formats.h"
#include "runtime/artifact/programs.h"
#include "runtime/device/cpu_features.h"
#include "runtime/support/likelihood.h"

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

namespace moeplan {

namespace {

using Json = nlohmann::ordered_json;

std::string formatName(fb::Format format) {
  const FormatInfo *info = findFormat(uint32_t(format));
  return info ? std::string(info->name) : "none";
}

std::vector<std::string>
strings(const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>> &list) {
  std::vector<std::string> out;
  for (const flatbuffers::String *item : list)
    out.push_back(item->str());
  return out;
}

Json describeModel(const fb::Model &model) {
  std::vector<int32_t> eos;
  if (model.eos_token_ids())
    eos.assign(model.eos_token_ids()->begin(), model.eos_token_ids()->end());
  return {{"architecture", model.architecture()->str()},
          {"vocab_size", model.vocab_size()},
          {"hidden_size", model.hidden_size()},
          {"intermediate_size", model.intermediate_size()},
          {"num_layers", model.num_layers()},
          {"num_attention_heads", model.num_attention_heads()},
          {"num_key_value_heads", model.num_key_value_heads()},
          {"head_dim", model.head_dim()},
          {"num_experts", model.num_experts()},
          {"num_experts_per_tok", model.num_experts_per_tok()},
          {"rms_norm_eps", model.rms_norm_eps()},
          {"rope_theta", model.rope_theta()},
          {"sliding_window", model.sliding_window()},
          {"max_position_embeddings", model.max_position_embeddings()},
          {"tie_word_embeddings", model.tie_word_embeddings()},
          {"bos_token_id", model.bos_token_id()},
          {"eos_token_ids", eos},
          {"kv_cache_format", findKvFormat(uint32_t(model.kv_cache_format()))->name}};
}

/// Segments that a plan reads: its experts' and those its programs bind.
std::set<uint32_t> segmentsOf(const fb::Plan &plan) {
  std::set<uint32_t> segments;
  for (const fb::Expert *expert : *plan.experts())
    segments.insert({expert->w1(), expert->w3(), expert->w2()});
  for (const fb::Program *program : allPrograms(plan))
    for (uint32_t i = 0; i < program->commands()->size(); ++i)
      if (program->commands_type()->GetEnum<fb::Command>(i) == fb::Command::Dispatch)
        for (const fb::Binding *binding : *program->commands()->GetAs<fb::Dispatch>(i)->bindings())
          if (binding->kind() == fb::BindingKind::segment)
            segments.insert(binding->index());
  return segments;
}

Json describeProgram(const fb::Program &program) {
  std::map<fb::Command, uint64_t> count;
  for (uint32_t i = 0; i < program.commands()->size(); ++i)
    ++count[program.commands_type()->GetEnum<fb::Command>(i)];
  return {{"name", program.name()->str()},
          {"max_tokens", program.max_tokens()},
          {"arena_bytes", program.arena_bytes()},
          {"weight_bytes_per_token", program.weight_bytes_per_token()},
          {"dispatches", count[fb::Command::Dispatch]},
          {"copies", count[fb::Command::Copy]},
          {"barriers", count[fb::Command::Barrier]},
          {"joins", count[fb::Command::Join]},
          {"pinned_arena_bytes", program.pinned_arena_bytes()}};
}

/// "bf16", or "bf16/bf16/f32" (gate, up, down) where an expert's linears differ.
std::string expertFormats(const fb::Artifact &artifact, const fb::Expert &expert) {
  auto format = [&](uint32_t segment) {
    return formatName(artifact.segments()->Get(segment)->format());
  };
  const std::string w1 = format(expert.w1()), w3 = format(expert.w3()), w2 = format(expert.w2());
  return w1 == w3 && w3 == w2 ? w1 : w1 + "/" + w3 + "/" + w2;
}

/// Bits of a weight of the plan's experts on average, scales and padding included.
double expertBitsPerWeight(const fb::Artifact &artifact, const fb::Plan &plan) {
  double bits = 0, weights = 0;
  for (const fb::Expert *expert : *plan.experts())
    for (uint32_t index : {expert->w1(), expert->w3(), expert->w2()}) {
      const fb::Segment &segment = *artifact.segments()->Get(index);
      bits += 8.0 * static_cast<double>(segment.extent()->bytes());
      weights += static_cast<double>(segment.shape()->Get(0)) *
                 static_cast<double>(segment.shape()->Get(1));
    }
  return bits / weights;
}

/// The value, or null.
template <typename T> Json orNull(const flatbuffers::Optional<T> &value) {
  return value ? Json(*value) : Json();
}

std::string orEmpty(const flatbuffers::String *text) { return text ? text->str() : std::string(); }

Json describeMemory(const fb::Memory *memory) {
  if (!memory)
    return {};
  return {{"weights", memory->weights()},
          {"kv_cache", memory->kv_cache()},
          {"activations", memory->activations()},
          {"staging", memory->staging()},
          {"context", memory->context()},
          {"total", memory->weights() + memory->kv_cache() + memory->activations() +
                        memory->staging() + memory->context()}};
}

Json describePrediction(const fb::Prediction *prediction) {
  if (!prediction)
    return {};
  return {{"perplexity_increase", prediction->perplexity_increase()},
          {"tokens_per_second", prediction->tokens_per_second()},
          {"prefill_tokens_per_second", prediction->prefill_tokens_per_second()},
          {"device", describeMemory(prediction->device())},
          {"host", describeMemory(prediction->host())},
          {"context", prediction->context()},
          {"batch", prediction->batch()},
          {"profile_digest", orEmpty(prediction->profile_digest())}};
}

/// What the tier asked for; null where it asked for nothing.
Json describeLimits(const fb::Plan &plan) {
  return {{"max_perplexity_increase", orNull(plan.max_perplexity_increase())},
          {"min_tokens_per_second", orNull(plan.min_tokens_per_second())},
          {"bits_per_weight", orNull(plan.bits_per_weight())},
          {"device_memory", orNull(plan.device_memory())},
          {"host_memory", orNull(plan.host_memory())}};
}

Json describeCanary(const fb::Canary *canary) {
  if (!canary)
    return {};
  const auto *ids = canary->token_ids();
  return {{"tokens", canary->tokens()},
          {"every_tokens", canary->every_tokens()},
          {"max_perplexity_increase", orNull(canary->max_perplexity_increase())},
          {"max_divergence", orNull(canary->max_divergence())},
          {"predicted_tokens", ids ? Json(ids->size() - 1) : Json()}};
}

/// What a plan made of the canary when it was compiled.
Json describeCanaryScore(const fb::Artifact &artifact, const fb::CanaryScore *score) {
  if (!score)
    return {};
  auto span = [](const flatbuffers::Vector<float> &values) {
    return std::span(values.data(), values.size());
  };
  char digest[17];
  std::snprintf(digest, sizeof digest, "%016llx",
                static_cast<unsigned long long>(score->logits_digest()));
  return {{"perplexity_increase",
           perplexityIncrease(span(*artifact.canary()->reference_log_likelihoods()),
                              span(*score->log_likelihoods()))},
          {"divergence", score->divergence()},
          {"logits_digest", digest}};
}

Json describeSwitching(const fb::Switching *switching) {
  if (!switching)
    return {};
  return {{"bandwidth_share", switching->bandwidth_share()},
          {"hysteresis", switching->hysteresis()},
          {"min_seconds", switching->min_seconds()}};
}

Json describePlan(const fb::Artifact &artifact, const fb::Plan &plan) {
  std::map<std::string, uint64_t> experts;
  for (const fb::Expert *expert : *plan.experts())
    ++experts[expertFormats(artifact, *expert) + "/" + fb::EnumNameResidency(expert->residency())];
  uint64_t weightBytes = 0;
  for (uint32_t segment : segmentsOf(plan))
    weightBytes += artifact.segments()->Get(segment)->extent()->bytes();
  Json programs = Json::array(), devicePrograms = Json::array();
  for (const fb::Program *program : *plan.programs())
    programs.push_back(describeProgram(*program));
  if (plan.device_programs())
    for (const fb::Program *program : *plan.device_programs())
      devicePrograms.push_back(describeProgram(*program));
  return {{"name", plan.name()->str()},
          {"experts", experts},
          {"expert_bits_per_weight", expertBitsPerWeight(artifact, plan)},
          {"weight_bytes", weightBytes},
          {"miss_strategy", fb::EnumNameMissStrategy(plan.miss_strategy())},
          {"cache_slots", plan.cache_slots()},
          {"prefer", fb::EnumNamePreference(plan.prefer())},
          {"limits", describeLimits(plan)},
          {"prediction", describePrediction(plan.prediction())},
          {"canary", describeCanaryScore(artifact, plan.canary())},
          {"programs", programs},
          {"device_programs", devicePrograms}};
}

Json describeKernel(const fb::Kernel &kernel) {
  Json constants = Json::object();
  for (const fb::Constant *constant : *kernel.constants())
    if (constant->is_real())
      constants[constant->name()->str()] = constant->real();
    else
      constants[constant->name()->str()] = constant->integer();
  return {{"symbol", kernel.symbol()->str()},
          {"implementation", kernel.implementation()->str()},
          {"machine", fb::EnumNameMachine(kernel.machine())},
          {"constants", constants}};
}

Json describeLibrary(const fb::Artifact &artifact, const fb::KernelLibrary &library) {
  const std::vector<std::string> features = strings(*library.features());
  // Of a device nothing is known here: no driver is opened to describe a file.
  const Json runsHere =
      library.machine() == fb::Machine::cpu ? Json(missingCpuFeatures(features).empty()) : Json();
  return {{"machine", fb::EnumNameMachine(library.machine())},
          {"target_cpu", library.target_cpu()->str()},
          {"triple", library.triple()->str()},
          {"features", features},
          {"segment", artifact.segments()->Get(library.segment())->name()->str()},
          {"runs_here", runsHere},
          {"code_bytes",
           std::vector<uint32_t>(library.code_bytes()->begin(), library.code_bytes()->end())}};
}

Json describeSegment(const fb::Segment &segment, std::vector<std::string> plans) {
  char checksum[17];
  std::snprintf(checksum, sizeof(checksum), "%016llx",
                static_cast<unsigned long long>(segment.extent()->checksum()));
  std::vector<uint64_t> shape;
  if (segment.shape())
    shape.assign(segment.shape()->begin(), segment.shape()->end());
  return {{"name", segment.name()->str()},
          {"kind", fb::EnumNameSegmentKind(segment.kind())},
          {"compression", fb::EnumNameCompression(segment.compression())},
          {"format", formatName(segment.format())},
          {"shape", shape},
          {"offset", segment.extent()->offset()},
          {"stored_bytes", segment.extent()->stored_bytes()},
          {"bytes", segment.extent()->bytes()},
          {"checksum", checksum},
          {"synthetic", segment.synthetic()},
          {"plans", std::move(plans)}};
}

} // namespace

std::string inspectArtifact(const Artifact &artifact) {
  const fb::Artifact &metadata = artifact.metadata();
  Json plans = Json::array(), kernels = Json::array(), libraries = Json::array(),
       segments = Json::array();
  std::vector<std::vector<std::string>> users(metadata.segments()->size());
  for (const fb::Plan *plan : *metadata.plans()) {
    plans.push_back(describePlan(metadata, *plan));
    for (uint32_t segment : segmentsOf(*plan))
      users[segment].push_back(plan->name()->str());
  }
  for (const fb::Kernel *kernel : *metadata.kernels())
    kernels.push_back(describeKernel(*kernel));
  for (const fb::KernelLibrary *library : *metadata.libraries())
    libraries.push_back(describeLibrary(metadata, *library));
  for (uint32_t i = 0; i < metadata.segments()->size(); ++i)
    segments.push_back(describeSegment(*metadata.segments()->Get(i), std::move(users[i])));
  const fb::Provenance &provenance = *metadata.provenance();
  const std::optional<uint64_t> seed = artifact.syntheticSeed();
  const Json description = {{"format_version", artifact.header().format_version},
                            {"file_bytes", artifact.fileBytes()},
                            {"synthetic", seed.has_value()},
                            {"synthetic_seed", seed ? Json(*seed) : Json()},
                            {"model", describeModel(artifact.model())},
                            {"plans", plans},
                            {"canary", describeCanary(metadata.canary())},
                            {"switching", describeSwitching(metadata.switching())},
                            {"kernels", kernels},
                            {"libraries", libraries},
                            {"segments", segments},
                            {"provenance",
                             {{"compiler_version", provenance.compiler_version()->str()},
                              {"llvm_version", provenance.llvm_version()->str()},
                              {"nvrtc_version", orEmpty(provenance.nvrtc_version())},
                              {"checkpoint_digest", provenance.checkpoint_digest()->str()},
                              {"policy_digest", provenance.policy_digest()->str()},
                              {"statistics_digest", orEmpty(provenance.statistics_digest())},
                              {"profile_digest", orEmpty(provenance.profile_digest())},
                              {"command_line", provenance.command_line()->str()}}}};
  return description.dump(2, ' ', false, Json::error_handler_t::replace);
}

} // namespace moeplan
