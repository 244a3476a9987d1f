// Which CPUs threads run on.
#pragma once

#include "runtime/support/status.h"

#include <pthread.h>
#include <sched.h>
#include <vector>

namespace moeplan {

/// Physical cores the calling thread may run on, at least 1: its affinity mask, counting the
/// hyperthreads of a core once, and no more than a cgroup's CPU quota.
unsigned availablePhysicalCores();

/// CPUs the calling thread may run on, in the order in which threads are to be bound to them: one
/// of every physical core first, then the second hyperthread of every core, and so on. Empty where
/// the system does not say.
std::vector<int> cpusForPinning();

/// Binds `thread` to `cpu`. Errors: MOEPLAN_UNSUPPORTED where the system refuses.
Status pinThread(pthread_t thread, int cpu);

/// Binds the calling thread to a CPU for the life of the object, where the system lets it; its mask
/// is as before afterwards.
class ScopedPin {
public:
  explicit ScopedPin(int cpu);
  ~ScopedPin();
  ScopedPin(const ScopedPin &) = delete;
  ScopedPin &operator=(const ScopedPin &) = delete;

  /// MOEPLAN_UNSUPPORTED where the thread could not be bound.
  const Status &status() const { return status_; }

private:
  cpu_set_t before_;
  Status status_;
};

} // namespace moeplan
