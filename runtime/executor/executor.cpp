#include "runtime/executor/executor.h"

#include "runtime/artifact/kernel_formats.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace moeplan {

namespace {

/// Operands of a kernel that reads an expert table.
constexpr uint32_t kBeginOperand = 2;

/// The layer whose experts `dispatch` reads; nothing where it reads none.
std::optional<uint32_t> expertLayerOf(const fb::Dispatch *dispatch) {
  if (dispatch)
    for (const fb::Binding *binding : *dispatch->bindings())
      if (binding->kind() == fb::BindingKind::experts)
        return binding->index();
  return std::nullopt;
}

} // namespace

const std::byte *ProgramMemory::baseOf(const Artifact &artifact, const fb::Binding &binding) const {
  const auto layer = static_cast<uint64_t>(binding.index());
  switch (binding.kind()) {
  case fb::BindingKind::arena:
    return arena;
  case fb::BindingKind::segment:
    return weight ? weight(binding.index()) : artifact.weight(binding.index()).data();
  case fb::BindingKind::keys:
    return keys + layer * kvLayerBytes;
  case fb::BindingKind::values:
    return values + layer * kvLayerBytes;
  case fb::BindingKind::experts:
    return reinterpret_cast<const std::byte *>(experts + layer * artifact.model().num_experts());
  case fb::BindingKind::tokens:
    return reinterpret_cast<const std::byte *>(tokens);
  case fb::BindingKind::expert_slots:
    return expertSlots + layer * sizeof(moeplan_expert_slots);
  case fb::BindingKind::pinned_arena:
    return pinnedArena;
  case fb::BindingKind::logits:
  case fb::BindingKind::candidates:
    break;
  }
  return nullptr;
}

Result<BoundProgram> BoundProgram::bind(const Artifact &artifact, const fb::Program &program,
                                        const std::vector<moeplan_kernel_fn> &kernels,
                                        const ProgramMemory &memory) {
  return bind(artifact, program, {0, program.commands()->size()}, kernels, memory);
}

Result<BoundProgram> BoundProgram::bind(const Artifact &artifact, const fb::Program &program,
                                        CommandRange range,
                                        const std::vector<moeplan_kernel_fn> &kernels,
                                        const ProgramMemory &memory) {
  BoundProgram bound;
  bound.maxTokens_ = program.max_tokens();
  bound.vocabSize_ = artifact.model().vocab_size();

  auto addOperand = [&](const fb::Binding &binding) {
    auto *base = const_cast<std::byte *>(memory.baseOf(artifact, binding));
    if (binding.kind() == fb::BindingKind::logits)
      bound.logitsOperands_.push_back(static_cast<uint32_t>(bound.operands_.size()));
    bound.operands_.push_back(base ? base + binding.offset() : nullptr);
  };

  uint32_t phaseBegin = 0;
  auto endPhase = [&]() -> Status {
    const auto begin = std::exchange(phaseBegin, static_cast<uint32_t>(bound.commands_.size()));
    return bound.addPhase(begin, phaseBegin);
  };
  for (uint32_t i = range.begin; i < range.end; ++i) {
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
      MOEPLAN_TRY(endPhase());
    }
  }
  MOEPLAN_TRY(endPhase());
  bound.findExpertSections(artifact);
  return bound;
}

void BoundProgram::findExpertSections(const Artifact &artifact) {
  maskedBegin_.resize(artifact.model().num_experts() + 1);
  for (uint32_t p = 0; p < phases_.size(); ++p) {
    std::optional<ExpertSection> section;
    bool divisible = true;
    for (uint32_t i = phases_[p].begin; i < phases_[p].end; ++i) {
      const fb::Dispatch *dispatch = commands_[i].dispatch;
      const std::optional<uint32_t> layer = expertLayerOf(dispatch);
      divisible &= layer && integerConstant(*artifact.metadata().kernels()->Get(dispatch->kernel()),
                                            "accumulate") != 0;
      if (layer && !section)
        section = {*layer, p, p + 1, i, true};
    }
    if (!section)
      continue;
    section->divisible = divisible;
    if (!sections_.empty() && sections_.back().layer == section->layer &&
        sections_.back().end == p) {
      sections_.back().end = p + 1;
      sections_.back().divisible &= divisible;
    } else {
      sections_.push_back(*section);
    }
  }
}

std::span<const uint32_t> BoundProgram::slotsOf(const ExpertSection &section) const {
  const uint32_t firstOperand = commands_[section.firstCommand].firstOperand;
  return {static_cast<const uint32_t *>(operands_[firstOperand + kBeginOperand]),
          maskedBegin_.size()};
}

bool BoundProgram::hasWork() const {
  return sections_.empty() ||
         std::any_of(sections_.begin(), sections_.end(),
                     [&](const ExpertSection &section) { return slotsOf(section).back() > 0; });
}

Status BoundProgram::addPhase(uint32_t begin, uint32_t end) {
  if (begin == end)
    return {};
  uint64_t tiles = 0, tilesPerToken = 0;
  for (uint32_t i = begin; i < end; ++i)
    (commands_[i].perToken ? tilesPerToken : tiles) += commands_[i].tiles;
  uint64_t most = 0;
  if (__builtin_mul_overflow(tilesPerToken, uint64_t(maxTokens_), &most) ||
      __builtin_add_overflow(most, tiles, &most) || most > UINT32_MAX)
    return unsupported("a phase of a program for " + std::to_string(maxTokens_) +
                       " tokens has more than " + std::to_string(UINT32_MAX) + " tiles");
  phases_.push_back(
      {begin, end, static_cast<uint32_t>(tiles), static_cast<uint32_t>(tilesPerToken)});
  return {};
}

void BoundProgram::pointToLogits(const moeplan_step &step, float *logits) {
  // Kernels index logits by the row in the chunk; rows before logits_begin are never touched, so
  // the base may lie before the buffer. Computed on integers, where that is well-defined.
  const uintptr_t logitsBase = reinterpret_cast<uintptr_t>(logits) -
                               uintptr_t(step.logits_begin) * vocabSize_ * sizeof(float);
  for (uint32_t operand : logitsOperands_)
    operands_[operand] = reinterpret_cast<void *>(logitsBase); // NOLINT(performance-no-int-to-ptr)
}

/// Phases of a program for one step.
class BoundProgram::StepPhases : public Phases {
public:
  StepPhases(const BoundProgram &program, const moeplan_step &step, std::span<const Phase> phases)
      : program_(program), step_(step), phases_(phases) {}

  uint32_t count() const override { return static_cast<uint32_t>(phases_.size()); }
  uint32_t tiles(uint32_t phase) const override { return phases_[phase].tilesIn(step_); }
  void run(uint32_t phase, TileRange range) override {
    program_.runTiles(phases_[phase], range, step_);
  }

private:
  const BoundProgram &program_;
  const moeplan_step &step_;
  std::span<const Phase> phases_;
};

template <typename Run> void BoundProgram::runPhases(ExpertSource *source, Run &&run) {
  uint32_t done = 0;
  if (source)
    for (const ExpertSection &section : sections_)
      if (source->hasMisses(section.layer)) {
        run(done, section.begin);
        runSection(section, *source, run);
        done = section.end;
      }
  run(done, static_cast<uint32_t>(phases_.size()));
}

template <typename Run>
void BoundProgram::runSection(const ExpertSection &section, ExpertSource &source, Run &&run) {
  const auto numExperts = static_cast<uint32_t>(maskedBegin_.size() - 1);
  // All dispatches of the section are told of the same slots.
  const std::span<const uint32_t> begin = slotsOf(section);
  auto tellSlots = [&](const uint32_t *slots) {
    for (uint32_t p = section.begin; p < section.end; ++p)
      for (uint32_t i = phases_[p].begin; i < phases_[p].end; ++i)
        if (expertLayerOf(commands_[i].dispatch))
          operands_[commands_[i].firstOperand + kBeginOperand] = const_cast<uint32_t *>(slots);
  };
  for (uint32_t expert = 0; expert < numExperts;) {
    const uint32_t end = source.prepare(section.layer, begin, expert, !section.divisible);
    if (expert > 0 || end < numExperts) {
      for (uint32_t e = 0; e <= numExperts; ++e)
        maskedBegin_[e] = begin[std::clamp(e, expert, end)];
      tellSlots(maskedBegin_.data());
    }
    run(section.begin, section.end);
    source.finish();
    expert = end;
  }
  tellSlots(begin.data());
}

void BoundProgram::run(ThreadPool &pool, const moeplan_step &step, float *logits,
                       DispatchObserver *observer, ExpertSource *source) {
  pointToLogits(step, logits);
  const std::span<const Phase> phases(phases_);
  runPhases(source, [&](uint32_t begin, uint32_t end) {
    if (begin == end)
      return;
    if (!observer) {
      StepPhases all(*this, step, phases.subspan(begin, end - begin));
      pool.run(all);
      return;
    }
    for (const Phase &phase : phases.subspan(begin, end - begin)) {
      StepPhases one(*this, step, {&phase, 1});
      pool.run(one);
      observe(phase, step, *observer);
    }
  });
}

BoundProgram::Phase BoundProgram::phaseOf(uint32_t command) const {
  const auto [tiles, perToken] = std::pair(commands_[command].tiles, commands_[command].perToken);
  return {command, command + 1, perToken ? 0 : tiles, perToken ? tiles : 0};
}

void BoundProgram::runOneByOne(ThreadPool &pool, const moeplan_step &step, float *logits,
                               DispatchTimer &timer, ExpertSource *source) {
  pointToLogits(step, logits);
  runPhases(source, [&](uint32_t begin, uint32_t end) {
    if (begin == end)
      return;
    for (uint32_t command = phases_[begin].begin; command < phases_[end - 1].end; ++command) {
      const Phase phase = phaseOf(command);
      StepPhases one(*this, step, {&phase, 1});
      const auto start = std::chrono::steady_clock::now();
      pool.run(one);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      timer.took(commands_[command].dispatch, seconds.count());
      observe(phase, step, timer);
    }
  });
}

void BoundProgram::runTiles(const Phase &phase, TileRange range, const moeplan_step &step) const {
  uint32_t first = 0; // tile of the phase at which the command begins
  for (uint32_t i = phase.begin; i < phase.end && first < range.end; ++i) {
    const Command &command = commands_[i];
    const uint32_t tiles = command.tiles * (command.perToken ? step.token_count : 1);
    const uint32_t begin = std::max(range.begin, first);
    const uint32_t end = std::min(range.end, first + tiles);
    if (begin < end) {
      void *const *operands = operands_.data() + command.firstOperand;
      if (command.kernel)
        command.kernel(operands, &step, begin - first, end - first);
      else
        std::memcpy(operands[0], operands[1], command.copyBytes);
    }
    first += tiles;
  }
}

void BoundProgram::observe(const Phase &phase, const moeplan_step &step,
                           DispatchObserver &observer) const {
  for (uint32_t i = phase.begin; i < phase.end; ++i)
    if (const fb::Dispatch *dispatch = commands_[i].dispatch)
      observer.afterDispatch(
          *dispatch,
          std::span(operands_).subspan(commands_[i].firstOperand, dispatch->bindings()->size()),
          step);
}

} // namespace moeplan
