// What dispatches have to do, counted: the floor that measured times are compared with.
#pragma once

#include "runtime/executor/executor.h"

#include <span>

namespace moeplan {

/// What a dispatch of `kernel` reads and computes in `step`; see moeplan_work. Right as long as the
/// operands hold what they did when it ran: routing is read from them. Kernels that are not in the
/// table of work.cpp do no counted work.
moeplan_work workOf(const fb::Kernel &kernel, std::span<void *const> operands,
                    const moeplan_step &step);

/// Adds every field of `more` to `sum`.
void addWork(moeplan_work &sum, const moeplan_work &more);

/// Sums the work of all dispatches that it sees.
class WorkCounter : public DispatchObserver {
public:
  explicit WorkCounter(const fb::Artifact &artifact) : artifact_(artifact) {}

  void afterDispatch(const fb::Dispatch &dispatch, std::span<void *const> operands,
                     const moeplan_step &step) override {
    addWork(work_, workOf(*artifact_.kernels()->Get(dispatch.kernel()), operands, step));
  }

  const moeplan_work &work() const { return work_; }

private:
  const fb::Artifact &artifact_;
  moeplan_work work_{};
};

} // namespace moeplan
