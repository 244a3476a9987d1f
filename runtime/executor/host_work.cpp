#include "runtime/executor/host_work.h"

#include <utility>

namespace moeplan {

Result<std::unique_ptr<HostWork>> HostWork::bind(const Artifact &artifact,
                                                 const fb::Program &program, CommandRange range,
                                                 const HostSide &side, const moeplan_step *step) {
  const ProgramMemory memory{.experts = side.experts, .pinnedArena = side.arena};
  MOEPLAN_ASSIGN(BoundProgram bound,
                 BoundProgram::bind(artifact, program, range, *side.kernels, memory));
  return std::unique_ptr<HostWork>(new HostWork(std::move(bound), side, step));
}

void HostWork::run() {
  if (program_.hasWork())
    program_.run(*side_.pool, *step_, nullptr, nullptr, side_.source);
}

void HostWork::runOneByOne(DispatchObserver &observer, DispatchTimer *timer) {
  if (!program_.hasWork())
    return;
  if (timer)
    program_.runOneByOne(*side_.pool, *step_, nullptr, *timer, side_.source);
  else
    program_.run(*side_.pool, *step_, nullptr, &observer, side_.source);
}

} // namespace moeplan
