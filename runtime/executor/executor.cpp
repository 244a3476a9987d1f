#include "runtime/executor/executor.h"

#include <algorithm>
#include <cstring>

namespace moeplan {

namespace {

/// Parts per thread that a command is cut into: enough to even out a slow thread, few enough to
/// keep each thread's reads long.
constexpr uint64_t kChunksPerThread = 4;
/// Bound on chunks per command, for the storage reserved at bind time.
constexpr uint64_t kMaxChunksPerCommand = 512;

} // namespace

Result<BoundProgram> BoundProgram::bind(const Artifact &artifact, const fb::Program &program,
                                        const std::vector<moeplan_kernel_fn> &kernels,
                                        const ProgramMemory &memory) {
  BoundProgram bound;
  bound.maxTokens_ = program.max_tokens();
  bound.vocabSize_ = artifact.model().vocab_size();
  const uint32_t numExperts = artifact.model().num_experts();

  auto addOperand = [&](const fb::Binding &binding) {
    const auto layer = static_cast<uint64_t>(binding.index());
    void *base = nullptr;
    switch (binding.kind()) {
    case fb::BindingKind::arena:
      base = memory.arena;
      break;
    case fb::BindingKind::segment:
      base = const_cast<std::byte *>(artifact.weight(binding.index()).data());
      break;
    case fb::BindingKind::keys:
      base = memory.keys + layer * memory.kvLayerBytes;
      break;
    case fb::BindingKind::values:
      base = memory.values + layer * memory.kvLayerBytes;
      break;
    case fb::BindingKind::experts:
      base = const_cast<moeplan_expert *>(memory.experts + layer * numExperts);
      break;
    case fb::BindingKind::tokens:
      base = memory.tokens;
      break;
    case fb::BindingKind::logits:
      bound.logitsOperands_.push_back(static_cast<uint32_t>(bound.operands_.size()));
      break;
    }
    bound.operands_.push_back(base ? static_cast<std::byte *>(base) + binding.offset() : nullptr);
  };

  uint32_t phaseBegin = 0;
  auto endPhase = [&] {
    const auto end = static_cast<uint32_t>(bound.commands_.size());
    if (end != phaseBegin)
      bound.phases_.push_back({phaseBegin, end});
    phaseBegin = end;
  };
  for (uint32_t i = 0; i < program.commands()->size(); ++i) {
    const auto firstOperand = static_cast<uint32_t>(bound.operands_.size());
    switch (program.commands_type()->GetEnum<fb::Command>(i)) {
    case fb::Command::Dispatch: {
      const auto *dispatch = program.commands()->GetAs<fb::Dispatch>(i);
      for (const fb::Binding *binding : *dispatch->bindings())
        addOperand(*binding);
      bound.commands_.push_back({kernels[dispatch->kernel()], firstOperand, dispatch->tiles(),
                                 dispatch->per_token(), 0, dispatch});
      break;
    }
    case fb::Command::Copy: {
      const auto *copy = program.commands()->GetAs<fb::Copy>(i);
      addOperand(*copy->target());
      addOperand(*copy->source());
      bound.commands_.push_back(
          {nullptr, firstOperand, 1, false, copy->source()->bytes(), nullptr});
      break;
    }
    default:
      endPhase();
    }
  }
  endPhase();
  size_t widest = 0;
  for (const Phase &phase : bound.phases_)
    widest = std::max<size_t>(widest, phase.end - phase.begin);
  bound.chunks_.reserve(widest * kMaxChunksPerCommand);
  return bound;
}

void BoundProgram::runChunk(const void *context, uint32_t index) {
  const auto &run = *static_cast<const PhaseRun *>(context);
  const Chunk &chunk = run.program->chunks_[index];
  const Command &command = run.program->commands_[chunk.command];
  void *const *operands = run.program->operands_.data() + command.firstOperand;
  if (command.kernel)
    command.kernel(operands, run.step, chunk.tileBegin, chunk.tileEnd);
  else
    std::memcpy(operands[0], operands[1], command.copyBytes);
}

void BoundProgram::run(ThreadPool &pool, const moeplan_step &step, float *logits,
                       DispatchObserver *observer) {
  // Kernels index logits by the row in the chunk; rows before logits_begin are never touched, so
  // the base may lie before the buffer. Computed on integers, where that is well-defined.
  const uintptr_t logitsBase = reinterpret_cast<uintptr_t>(logits) -
                               uintptr_t(step.logits_begin) * vocabSize_ * sizeof(float);
  for (uint32_t operand : logitsOperands_)
    operands_[operand] = reinterpret_cast<void *>(logitsBase); // NOLINT(performance-no-int-to-ptr)

  const uint64_t parts = pool.threads() == 1 ? 1
                                             : std::min<uint64_t>(pool.threads() * kChunksPerThread,
                                                                  kMaxChunksPerCommand);
  const PhaseRun context{this, &step};
  for (const Phase &phase : phases_) {
    chunks_.clear();
    for (uint32_t i = phase.begin; i < phase.end; ++i) {
      const Command &command = commands_[i];
      const uint64_t tiles = uint64_t(command.tiles) * (command.perToken ? step.token_count : 1);
      const uint64_t count = std::min(tiles, parts);
      for (uint64_t part = 0; part < count; ++part)
        chunks_.push_back({i, tiles * part / count, tiles * (part + 1) / count});
    }
    pool.run(runChunk, &context, static_cast<uint32_t>(chunks_.size()));
    if (!observer)
      continue;
    for (uint32_t i = phase.begin; i < phase.end; ++i)
      if (const fb::Dispatch *dispatch = commands_[i].dispatch)
        observer->afterDispatch(
            *dispatch,
            std::span(operands_).subspan(commands_[i].firstOperand, dispatch->bindings()->size()),
            step);
  }
}

} // namespace moeplan
