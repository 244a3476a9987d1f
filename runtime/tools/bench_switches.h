// What `moeplan bench --switches` measures: how much a session notices of changes of its plan.
#pragma once

#include "runtime/tools/bench_measure.h"
#include "runtime/tools/control.h"

#include <string>
#include <vector>

namespace moeplan::tools {

struct SwitchBenchOptions {
  uint32_t switches = 0;          ///< 0: not asked for
  std::vector<std::string> plans; ///< in turn; empty: all that the device can run
  ControlOptions control;
};

/// Median and 99th percentile.
struct Tail {
  double p50 = 0, p99 = 0;
};

struct SwitchMeasurement {
  std::string device, targetCpu;
  uint32_t threads = 0;
  std::vector<std::string> plans;
  uint32_t switches = 0;
  double tokenSeconds = 0;     ///< median of a token between switches, over the plans the slowest
  double coldTokenSeconds = 0; ///< likewise, of tokens whose weights are in no cache
  Tail stallSeconds;   ///< the slower of the tokens right before and right after the exchange
  Tail stallRatio;     ///< that over the median token of the plan it was computed under
  Tail ordinaryRatio;  ///< of tokens between switches over that median
  Tail slowestSeconds; ///< the slowest token from the request to the end of the switch
  Tail stagingSeconds; ///< from the request to the exchange
  uint64_t movedBytes = 0,
           neededBytes = 0; ///< brought in by all switches; what the plans differ in
  uint64_t evictedBytes = 0;
  double copyBandwidth = 0;  ///< of the device's link, or of reading memory: bytes per second
  double bandwidthShare = 0; ///< of it, bytes brought in over staging seconds
};

/// Throws Failure.
SwitchMeasurement measureSwitches(const BenchOptions &bench, const SwitchBenchOptions &options);

std::string switchesMarkdown(const BenchOptions &bench, const SwitchMeasurement &measurement);
nlohmann::ordered_json switchesJson(const BenchOptions &bench,
                                    const SwitchMeasurement &measurement);

} // namespace moeplan::tools
