// What the program of a device gives the host to do.
#pragma once

#include "kernel_abi.h"
#include "runtime/executor/executor.h"

#include <memory>

namespace moeplan {

/// What the host works with. Borrowed; must outlive the programs.
struct HostSide {
  const std::vector<moeplan_kernel_fn> *kernels = nullptr; ///< by their index in the artifact
  ThreadPool *pool = nullptr;
  std::byte *arena = nullptr; ///< at least the program's pinned_arena_bytes
  /// [num_layers * num_experts]; rows of experts that the host keeps have addresses that it reads.
  const moeplan_expert *experts = nullptr;
  ExpertSource *source = nullptr; ///< is told of the experts that are computed; may be null
};

/// A piece of work: dispatches of kernels of the CPU, run while the device goes on. Used by one
/// thread at a time.
class HostWork {
public:
  /// Commands `range` of `program`. `step` is read by each run.
  static Result<std::unique_ptr<HostWork>> bind(const Artifact &artifact,
                                                const fb::Program &program, CommandRange range,
                                                const HostSide &side, const moeplan_step *step);

  /// Does nothing where the work is about experts and no token is routed to any. Calls no driver.
  void run();
  /// The same, each dispatch alone; `timer` may be null.
  void runOneByOne(DispatchObserver &observer, DispatchTimer *timer);

private:
  HostWork(BoundProgram program, const HostSide &side, const moeplan_step *step)
      : program_(std::move(program)), side_(side), step_(step) {}

  BoundProgram program_;
  const HostSide side_;
  const moeplan_step *step_;
};

} // namespace moeplan
