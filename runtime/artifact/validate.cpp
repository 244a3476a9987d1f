#include "runtime/artifact/artifact.h"

#include "formats.h"
#include "kv_formats.h"
#include "runtime/artifact/kernel_formats.h"
#include "runtime/artifact/kernel_libraries.h"
#include "runtime/artifact/policy_facts.h"
#include "runtime/support/alignment.h"

#include <algorithm>
#include <string_view>
#include <unordered_set>

// The kernels' header and the schema name the same formats.
static_assert(uint16_t(moeplan::fb::Format::f32) == MOEPLAN_FORMAT_F32);
static_assert(uint16_t(moeplan::fb::Format::bf16) == MOEPLAN_FORMAT_BF16);
static_assert(uint16_t(moeplan::fb::Format::MAX) == moeplan::kFormats.back().id);
static_assert(
    [] {
      // ... in the order that kernels conclude bits and group sizes from.
      for (size_t i = 0; i < moeplan::kFormats.size(); ++i) {
        const moeplan::FormatInfo &format = moeplan::kFormats[i];
        if (format.id != i + 1 || format.isPacked() != bool(moeplan_format_is_packed(format.id)) ||
            (format.isPacked() &&
             (format.bits != uint32_t(moeplan_format_bits(format.id)) ||
              format.groupSize != uint32_t(moeplan_format_group_size(format.id)))))
          return false;
      }
      return true;
    }(),
    "kernel_abi.h and formats.h disagree");

namespace moeplan {

namespace {

/// Bounds that no real model reaches; within them no product here exceeds 64 bits.
constexpr uint32_t kMaxExtent = 1u << 24, kMaxLayers = 1u << 16, kMaxTokens = 1u << 16;
constexpr uint32_t kMaxDeviceTokens = 65535; ///< rows of a CUDA grid
constexpr uint64_t kMaxArenaBytes = uint64_t(1) << 40;
/// Of all synthetic weights together: no file bounds them.
constexpr uint64_t kMaxSyntheticBytes = uint64_t(1) << 42;
constexpr size_t kMaxNameBytes = 1024;

using flatbuffers::Offset;
template <typename T> using Tables = flatbuffers::Vector<Offset<T>>;

/// Checks the parts in the order of their dependence and keeps what later parts need.
class Validator {
public:
  Validator(const fb::Artifact &artifact, const ArtifactHeader &header)
      : artifact(artifact), model(*artifact.model()), header(header),
        segmentBytes(header.file_size - header.segment_base) {}

  Status run() {
    MOEPLAN_TRY(checkModel());
    MOEPLAN_TRY(checkSegments());
    MOEPLAN_TRY(checkKernels());
    MOEPLAN_TRY(checkPlans());
    MOEPLAN_TRY(checkPolicyFacts(artifact));
    const bool hasTokenizer = artifact.tokenizer_segment() != kNoTokenizer;
    if (hasTokenizer && !isSegment(artifact.tokenizer_segment(), fb::SegmentKind::tokenizer))
      return corrupt("the tokenizer is not a tokenizer segment");
    const uint64_t used = (hasTokenizer ? 0 : kFeatureNoTokenizer) |
                          (artifact.synthetic_seed() ? kFeatureSyntheticWeights : 0) |
                          (hasKernelsOf(artifact, fb::Machine::cuda) ? kFeatureDeviceKernels : 0) |
                          (givesHostWork ? kFeatureHostWork : 0);
    if (header.feature_bits != used)
      return corrupt("feature bits " + std::to_string(used) + " expected, the header has " +
                     std::to_string(header.feature_bits));
    return {};
  }

private:
  static Status checkExtent(const char *name, uint64_t value, uint64_t limit = kMaxExtent) {
    if (value == 0 || value > limit)
      return corrupt(std::string("model: ") + name + " is " + std::to_string(value));
    return {};
  }

  Status checkModel() {
    MOEPLAN_TRY(checkExtent("vocab_size", model.vocab_size()));
    MOEPLAN_TRY(checkExtent("hidden_size", model.hidden_size()));
    MOEPLAN_TRY(checkExtent("intermediate_size", model.intermediate_size()));
    MOEPLAN_TRY(checkExtent("num_layers", model.num_layers(), kMaxLayers));
    MOEPLAN_TRY(checkExtent("num_attention_heads", model.num_attention_heads(), 1u << 16));
    MOEPLAN_TRY(checkExtent("num_key_value_heads", model.num_key_value_heads(), 1u << 16));
    MOEPLAN_TRY(checkExtent("head_dim", model.head_dim(), 1u << 16));
    MOEPLAN_TRY(checkExtent("num_experts", model.num_experts(), 1u << 16));
    MOEPLAN_TRY(
        checkExtent("num_experts_per_tok", model.num_experts_per_tok(), model.num_experts()));
    MOEPLAN_TRY(checkExtent("max_position_embeddings", model.max_position_embeddings(), 1u << 30));
    if (model.num_attention_heads() % model.num_key_value_heads() != 0)
      return corrupt("model: num_attention_heads is no multiple of num_key_value_heads");
    if (!findKvFormat(uint32_t(model.kv_cache_format())))
      return corrupt("model: unknown kv_cache_format");
    return {};
  }

  Status checkName(const flatbuffers::String *name, const char *what,
                   std::unordered_set<std::string_view> &seen) {
    if (name->size() == 0 || name->size() > kMaxNameBytes)
      return corrupt(std::string(what) + " with an empty or overlong name");
    if (!seen.insert(name->string_view()).second)
      return corrupt(std::string(what) + " '" + name->str() + "' occurs twice");
    return {};
  }

  Status checkSegments() {
    std::unordered_set<std::string_view> names;
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    uint64_t syntheticBytes = 0;
    for (const fb::Segment *segment : *artifact.segments()) {
      MOEPLAN_TRY(checkName(segment->name(), "segment", names));
      MOEPLAN_TRY(checkSegment(*segment).withContext("segment '" + segment->name()->str() + "'"));
      if (!segment->synthetic()) {
        ranges.emplace_back(segment->extent()->offset(), segment->extent()->stored_bytes());
        continue;
      }
      if (segment->extent()->bytes() > kMaxSyntheticBytes - syntheticBytes)
        return corrupt("synthetic weights of more than " + std::to_string(kMaxSyntheticBytes) +
                       " bytes");
      syntheticBytes += segment->extent()->bytes();
    }
    if (artifact.synthetic_seed().has_value() != (syntheticBytes > 0))
      return corrupt(syntheticBytes > 0 ? "synthetic weights without a seed"
                                        : "a seed without synthetic weights");
    std::sort(ranges.begin(), ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i)
      if (ranges[i].first - ranges[i - 1].first < ranges[i - 1].second)
        return corrupt("segments overlap at byte " + std::to_string(ranges[i].first));
    return {};
  }

  Status checkSegment(const fb::Segment &segment) {
    const fb::Extent &extent = *segment.extent();
    if (segment.kind() > fb::SegmentKind::MAX || segment.compression() > fb::Compression::MAX)
      return corrupt("unknown kind or compression");
    if (segment.synthetic()) {
      if (segment.kind() != fb::SegmentKind::weight ||
          segment.compression() != fb::Compression::none)
        return corrupt("is synthetic but no plain weight");
      if (extent.offset() != 0 || extent.stored_bytes() != 0 || extent.checksum() != 0)
        return corrupt("is synthetic but lies in the file");
      if (extent.bytes() == 0)
        return corrupt("is synthetic and empty");
      return checkWeight(segment);
    }
    if (extent.stored_bytes() == 0 || extent.offset() > segmentBytes ||
        extent.stored_bytes() > segmentBytes - extent.offset())
      return corrupt("lies outside the file");
    if (segment.compression() == fb::Compression::none && extent.bytes() != extent.stored_bytes())
      return corrupt("states two sizes");
    if (segment.kind() != fb::SegmentKind::weight)
      return extent.offset() % kPackedAlignment == 0 ? Status() : corrupt("is misaligned");

    if (segment.compression() != fb::Compression::none)
      return unsupported("compressed weights");
    if (extent.offset() % kMappedAlignment != 0)
      return corrupt("is misaligned");
    return checkWeight(segment);
  }

  /// Format, shape and the bytes that follow from them.
  static Status checkWeight(const fb::Segment &segment) {
    const FormatInfo *format = findFormat(uint32_t(segment.format()));
    if (!format || !segment.shape() || segment.shape()->size() == 0 || segment.shape()->size() > 2)
      return corrupt("is a weight without format or shape");
    if (format->isPacked() && segment.shape()->size() != 2)
      return corrupt("is a vector in a format of matrices");
    const uint64_t rows = segment.shape()->size() == 2 ? segment.shape()->Get(0) : 1;
    const auto bytes =
        formatBytes(*format, rows, segment.shape()->Get(segment.shape()->size() - 1));
    if (!bytes || *bytes != segment.extent()->bytes())
      return corrupt("has " + std::to_string(segment.extent()->bytes()) +
                     " bytes, which is not its shape's size");
    return {};
  }

  bool isSegment(uint32_t index, fb::SegmentKind kind) const {
    return index < artifact.segments()->size() && artifact.segments()->Get(index)->kind() == kind;
  }

  Status checkKernels() {
    std::unordered_set<std::string_view> names;
    for (const fb::Kernel *kernel : *artifact.kernels())
      MOEPLAN_TRY(checkName(kernel->symbol(), "kernel", names));
    return checkKernelLibraries(artifact);
  }

  Status checkPlans() {
    if (artifact.plans()->size() == 0)
      return corrupt("no plan");
    std::unordered_set<std::string_view> names;
    for (const fb::Plan *plan : *artifact.plans()) {
      MOEPLAN_TRY(checkName(plan->name(), "plan", names));
      MOEPLAN_TRY(checkPlan(*plan).withContext("plan '" + plan->name()->str() + "'"));
    }
    return {};
  }

  /// A weight segment of shape [rows, columns].
  bool isMatrix(uint32_t index, uint64_t rows, uint64_t columns) const {
    if (!isSegment(index, fb::SegmentKind::weight))
      return false;
    const auto *shape = artifact.segments()->Get(index)->shape();
    return shape->size() == 2 && shape->Get(0) == rows && shape->Get(1) == columns;
  }

  Status checkPlan(const fb::Plan &plan) {
    if (!isAligned(*plan.experts()))
      return corrupt("its expert table is misaligned");
    if (plan.experts()->size() != uint64_t(model.num_layers()) * model.num_experts())
      return corrupt("its expert table has " + std::to_string(plan.experts()->size()) + " rows");
    for (const fb::Expert *expert : *plan.experts()) {
      const uint64_t hidden = model.hidden_size(), inner = model.intermediate_size();
      if (expert->residency() > fb::Residency::MAX || !isMatrix(expert->w1(), inner, hidden) ||
          !isMatrix(expert->w3(), inner, hidden) || !isMatrix(expert->w2(), hidden, inner))
        return corrupt("a row of its expert table is wrong");
    }
    MOEPLAN_TRY(checkPlanFacts(model, plan));
    if (plan.programs()->size() == 0)
      return corrupt("no program");
    MOEPLAN_TRY(checkPrograms(*plan.programs(), {fb::Machine::cpu}, kMaxTokens));
    if (plan.device_programs() && plan.device_programs()->size() > 0) {
      if (model.kv_cache_format() != fb::KvFormat::bf16)
        return corrupt("device programs, but the KV cache is not bf16");
      const bool fetches = plan.miss_strategy() == fb::MissStrategy::stream ||
                           plan.miss_strategy() == fb::MissStrategy::cached;
      MOEPLAN_TRY(
          checkPrograms(*plan.device_programs(), {fb::Machine::cuda, fetches}, kMaxDeviceTokens));
    }
    return checkKernelFormats(artifact, plan);
  }

  /// Where programs run, and whether there are slots to fetch experts to.
  struct Target {
    fb::Machine machine;
    bool hasSlots = false;
  };

  Status checkPrograms(const Tables<fb::Program> &programs, const Target &target, uint32_t limit) {
    uint32_t previous = 0;
    for (const fb::Program *program : programs) {
      const uint32_t tokens = program->max_tokens();
      if (tokens <= previous || tokens > limit || (previous == 0 && tokens != 1))
        return corrupt("programs are not in order of max_tokens, from 1");
      previous = tokens;
      MOEPLAN_TRY(
          checkProgram(*program, target).withContext("program '" + program->name()->str() + "'"));
    }
    return {};
  }

  Status checkProgram(const fb::Program &program, const Target &target) {
    for (const uint64_t bytes : {program.arena_bytes(), program.pinned_arena_bytes()})
      if (bytes > kMaxArenaBytes)
        return corrupt("arena of " + std::to_string(bytes) + " bytes");
    if (program.pinned_arena_bytes() > 0 && target.machine == fb::Machine::cpu)
      return corrupt("a pinned arena, but there is no device");
    givesHostWork |= program.pinned_arena_bytes() > 0;
    for (uint32_t i = 0; i < program.commands()->size(); ++i) {
      const void *command = program.commands()->Get(i);
      Status status;
      switch (program.commands_type()->GetEnum<fb::Command>(i)) {
      case fb::Command::Dispatch:
        status = checkDispatch(program, target, *static_cast<const fb::Dispatch *>(command));
        break;
      case fb::Command::Copy:
        status = checkCopy(program, target, *static_cast<const fb::Copy *>(command));
        break;
      case fb::Command::Barrier:
        break;
      case fb::Command::Join:
        if (program.pinned_arena_bytes() == 0)
          status = corrupt("waits for the host, which has no work");
        break;
      default:
        status = corrupt("unknown kind");
      }
      MOEPLAN_TRY(std::move(status).withContext("command " + std::to_string(i)));
    }
    return {};
  }

  Status checkDispatch(const fb::Program &program, const Target &target,
                       const fb::Dispatch &dispatch) {
    if (dispatch.kernel() >= artifact.kernels()->size())
      return corrupt("no such kernel");
    const fb::Machine machine = artifact.kernels()->Get(dispatch.kernel())->machine();
    const bool onHost = machine != target.machine && machine == fb::Machine::cpu &&
                        program.pinned_arena_bytes() > 0;
    if (machine != target.machine && !onHost)
      return corrupt("its kernel is of another machine");
    if (!isAligned(*dispatch.bindings()))
      return corrupt("misaligned operands");
    if (dispatch.bindings()->size() != artifact.kernels()->Get(dispatch.kernel())->binding_count())
      return corrupt("wrong number of operands");
    if (dispatch.tiles() == 0 || dispatch.tiles() > kMaxExtent)
      return corrupt("grid of " + std::to_string(dispatch.tiles()) + " tiles");
    for (const fb::Binding *binding : *dispatch.bindings()) {
      if (onHost && binding->kind() != fb::BindingKind::pinned_arena &&
          binding->kind() != fb::BindingKind::experts)
        return corrupt("an operand is out of the host's reach");
      MOEPLAN_TRY(checkBinding(program, onHost ? Target{machine} : target, *binding));
    }
    return {};
  }

  Status checkCopy(const fb::Program &program, const Target &target, const fb::Copy &copy) {
    MOEPLAN_TRY(checkBinding(program, target, *copy.source()));
    MOEPLAN_TRY(checkBinding(program, target, *copy.target()));
    if (copy.source()->bytes() == 0 || copy.source()->bytes() != copy.target()->bytes())
      return corrupt("copies between different sizes");
    if (copy.target()->access() == fb::Access::read)
      return corrupt("copies to what is only read");
    for (const fb::Binding *binding : {copy.source(), copy.target()})
      if (binding->kind() == fb::BindingKind::pinned_arena)
        return corrupt("copies what kernels reach where it is");
    return {};
  }

  Status checkBinding(const fb::Program &program, const Target &target,
                      const fb::Binding &binding) {
    if (binding.access() > fb::Access::MAX)
      return corrupt("unknown access");
    uint64_t available = 0;
    bool readOnly = false, valid = true;
    switch (binding.kind()) {
    case fb::BindingKind::arena:
      available = program.arena_bytes();
      valid = binding.offset() % 64 == 0 && binding.bytes() > 0;
      break;
    case fb::BindingKind::pinned_arena:
      available = program.pinned_arena_bytes();
      valid = binding.offset() % 64 == 0 && binding.bytes() > 0;
      break;
    case fb::BindingKind::segment:
      valid = isSegment(binding.index(), fb::SegmentKind::weight);
      available = valid ? artifact.segments()->Get(binding.index())->extent()->bytes() : 0;
      readOnly = true;
      break;
    case fb::BindingKind::keys:
    case fb::BindingKind::values:
      valid = binding.index() < model.num_layers();
      break;
    case fb::BindingKind::experts:
      valid = binding.index() < model.num_layers();
      readOnly = target.machine == fb::Machine::cpu; // devices fetch experts by themselves
      break;
    case fb::BindingKind::candidates:
      available = MOEPLAN_CANDIDATES * sizeof(moeplan_candidate);
      valid = binding.offset() == 0 && target.machine != fb::Machine::cpu;
      break;
    case fb::BindingKind::expert_slots:
      valid = binding.index() < model.num_layers() && target.hasSlots;
      break;
    case fb::BindingKind::tokens:
      available = uint64_t(program.max_tokens()) * sizeof(int32_t);
      readOnly = true;
      break;
    case fb::BindingKind::logits:
      available = uint64_t(program.max_tokens()) * model.vocab_size() * sizeof(float);
      valid = binding.offset() == 0;
      break;
    default:
      valid = false;
    }
    if (!valid)
      return corrupt("an operand names nothing that exists");
    if (readOnly && binding.access() != fb::Access::read)
      return corrupt("an operand is written but read-only");
    if (binding.offset() > available || binding.bytes() > available - binding.offset())
      return corrupt("an operand reaches beyond its memory");
    return {};
  }

  const fb::Artifact &artifact;
  const fb::Model &model;
  const ArtifactHeader &header;
  uint64_t segmentBytes; ///< of the file behind the segment base
  bool givesHostWork = false;
};

} // namespace

Status validateMetadata(const fb::Artifact &artifact, const ArtifactHeader &header) {
  return Validator(artifact, header).run();
}

} // namespace moeplan
