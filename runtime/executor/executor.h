// Programs bound to memory, and their execution on the CPU.
#pragma once

#include "kernel_abi.h"
#include "runtime/artifact/artifact.h"
#include "runtime/device/kernel_module.h"
#include "runtime/device/thread_pool.h"
#include "runtime/support/status.h"

#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace moeplan {

/// Base addresses of what a program's operands may name. Borrowed; must outlive the programs.
struct ProgramMemory {
  std::byte *arena = nullptr; ///< at least the program's arena_bytes
  std::byte *keys = nullptr;  ///< [num_layers] caches of `kvLayerBytes`
  std::byte *values = nullptr;
  uint64_t kvLayerBytes = 0;
  const moeplan_expert *experts = nullptr; ///< [num_layers * num_experts]
  int32_t *tokens = nullptr;               ///< [max_tokens]
  const std::byte *expertSlots = nullptr;  ///< moeplan_expert_slots [num_layers], on a device
  /// At least the program's pinned_arena_bytes, as the machine that reads it sees it.
  const std::byte *pinnedArena = nullptr;
  /// Where a weight segment is; empty: where the artifact has it.
  std::function<const std::byte *(uint32_t segment)> weight = {};

  /// Where what `binding` names begins; null for logits and candidates, which each run has its own
  /// place for.
  const std::byte *baseOf(const Artifact &artifact, const fb::Binding &binding) const;
};

/// Looks on while programs run: how calibration sees activations. Called on the thread that runs
/// the session, when the phase that has the dispatch has ended and nothing has run since.
class DispatchObserver {
public:
  virtual ~DispatchObserver() = default;
  /// `operands` are the dispatch's bindings as addresses, in their order.
  virtual void afterDispatch(const fb::Dispatch &dispatch, std::span<void *const> operands,
                             const moeplan_step &step) = 0;
};

/// Is told besides what each dispatch has taken, when it ran with nothing beside it.
class DispatchTimer : public DispatchObserver {
public:
  /// Called before afterDispatch(). `dispatch` is null for a copy.
  virtual void took(const fb::Dispatch *dispatch, double seconds) = 0;
};

/// Brings experts to where kernels read them, between the routing of a layer and its experts.
/// Called on the thread that runs the session.
class ExpertSource {
public:
  virtual ~ExpertSource() = default;
  /// Whether prepare() has anything to do in `layer`. Does not change while a program runs.
  virtual bool hasMisses(uint32_t layer) const = 0;
  /// `begin` [num_experts + 1]: where the slots of each expert begin; those of `first` and behind
  /// are still to be computed. Makes the rows of the expert table right for a group of experts that
  /// begins with `first`, of all the rest where `undivided`, and returns the first expert behind
  /// it.
  virtual uint32_t prepare(uint32_t layer, std::span<const uint32_t> begin, uint32_t first,
                           bool undivided) = 0;
  /// The group has been computed.
  virtual void finish() = 0;
};

/// Commands of a program.
struct CommandRange {
  uint32_t begin, end;
};

/// One program with every operand resolved to an address and every kernel to its code. Built once
/// per session; running it allocates nothing.
class BoundProgram {
public:
  /// Errors: MOEPLAN_UNSUPPORTED where a phase has more than 2^32 - 1 tiles.
  static Result<BoundProgram> bind(const Artifact &artifact, const fb::Program &program,
                                   const std::vector<moeplan_kernel_fn> &kernels,
                                   const ProgramMemory &memory);
  /// Of some of its commands.
  static Result<BoundProgram> bind(const Artifact &artifact, const fb::Program &program,
                                   CommandRange range,
                                   const std::vector<moeplan_kernel_fn> &kernels,
                                   const ProgramMemory &memory);

  uint32_t maxTokens() const { return maxTokens_; }

  /// False where the commands are about experts and no token is routed to any, the routing having
  /// been made before they run.
  bool hasWork() const;

  /// Runs the program for `step`. Row r of the logits, for step.logits_begin <= r <
  /// step.token_count, goes to logits + (r - step.logits_begin) * vocab_size; no other is touched.
  /// `observer` and `source` may be null.
  void run(ThreadPool &pool, const moeplan_step &step, float *logits,
           DispatchObserver *observer = nullptr, ExpertSource *source = nullptr);

  /// The same results, with each command in a phase of its own, so that each can be timed.
  void runOneByOne(ThreadPool &pool, const moeplan_step &step, float *logits, DispatchTimer &timer,
                   ExpertSource *source = nullptr);

private:
  /// A dispatch, or a copy where `kernel` is null (operands: target, source).
  struct Command {
    moeplan_kernel_fn kernel;
    uint32_t firstOperand;
    uint32_t tiles;
    bool perToken;
    uint64_t copyBytes;
    const fb::Dispatch *dispatch; ///< null for a copy
  };
  /// Commands between two barriers; they run side by side. Their tiles, end to end, are one row
  /// that threads share out.
  struct Phase {
    uint32_t begin, end;
    uint32_t tiles, tilesPerToken;

    uint32_t tilesIn(const moeplan_step &step) const {
      return tiles + tilesPerToken * step.token_count;
    }
  };
  class StepPhases;
  /// The phases that compute the experts of a layer. They can be run for some experts after others,
  /// with slots of the others left out, where all they do is to add to what is there.
  struct ExpertSection {
    uint32_t layer;
    uint32_t begin, end;   ///< phases
    uint32_t firstCommand; ///< that reads the experts
    bool divisible;
  };

  Phase phaseOf(uint32_t command) const;

  Status addPhase(uint32_t begin, uint32_t end);
  void findExpertSections(const Artifact &artifact);
  /// [num_experts + 1]: where the slots of each expert begin.
  std::span<const uint32_t> slotsOf(const ExpertSection &section) const;
  /// run(begin, end) for phases in their order, those of experts once `source` has prepared them.
  template <typename Run> void runPhases(ExpertSource *source, Run &&run);
  template <typename Run>
  void runSection(const ExpertSection &section, ExpertSource &source, Run &&run);
  void pointToLogits(const moeplan_step &step, float *logits);
  void runTiles(const Phase &phase, TileRange range, const moeplan_step &step) const;
  void observe(const Phase &phase, const moeplan_step &step, DispatchObserver &observer) const;

  uint32_t maxTokens_ = 0;
  uint32_t vocabSize_ = 0;
  std::vector<Command> commands_;
  std::vector<Phase> phases_;
  std::vector<void *> operands_;
  std::vector<uint32_t> logitsOperands_; ///< indices into operands_ that follow the logits
  std::vector<ExpertSection> sections_;
  std::vector<uint32_t> maskedBegin_; ///< [num_experts + 1]: without the slots of other experts
};

} // namespace moeplan
