// What each kernel of a session takes, measured alone.
#pragma once

#include "runtime/executor/executor.h"

#include <map>
#include <string>
#include <vector>

namespace moeplan {

/// All dispatches of one kernel in one pass over some tokens.
struct KernelTime {
  const fb::Kernel *kernel = nullptr; ///< null: copies
  uint32_t dispatches = 0;
  double seconds = 0; ///< the median of the repetitions
  moeplan_work work{};
};

/// Collects times while a program runs again and again for the same tokens. The first repetition
/// warms up: its work is counted, its times are not.
class KernelTimer : public DispatchTimer {
public:
  KernelTimer(const fb::Artifact &artifact, uint32_t repetitions)
      : artifact_(artifact), repetitions_(repetitions) {}

  /// Begins repetition 0 (the warm-up) .. `repetitions`.
  void beginRepetition(uint32_t repetition) { repetition_ = repetition; }

  void took(const fb::Dispatch *dispatch, double seconds) override;
  void afterDispatch(const fb::Dispatch &dispatch, std::span<void *const> operands,
                     const moeplan_step &step) override;

  /// In the order in which kernels first ran.
  std::vector<KernelTime> times() const;

private:
  struct Row {
    KernelTime time;
    std::vector<double> seconds; ///< by repetition, without the warm-up
  };

  const fb::Artifact &artifact_;
  uint32_t repetitions_;
  uint32_t repetition_ = 0;
  std::vector<Row> rows_;
  std::map<const fb::Kernel *, size_t> rowOf_;
};

/// As moeplan_session_measure_kernels() gives it.
std::string describeKernelTimes(const std::vector<KernelTime> &times);

} // namespace moeplan
