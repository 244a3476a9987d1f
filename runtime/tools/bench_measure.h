// What `moeplan bench` measures.
#pragma once

#include "runtime/tools/common.h"
#include "runtime/tools/load.h"

#include <nlohmann/json.hpp>

#include <array>
#include <optional>
#include <string>
#include <vector>

namespace moeplan::tools {

struct BenchOptions {
  std::string artifact;
  std::string plan;
  std::string device = "cpu";
  uint32_t promptTokens = 512;
  uint32_t genTokens = 128; ///< a multiple of `batch`
  uint32_t batch = 1;       ///< tokens of a decode step
  ThreadOptions threads;
  LoadingOptions loading;
  uint32_t repetitions = 5;
  bool kernels = false;
  std::string output = "md";

  uint32_t decodeSteps() const { return genTokens / batch; }
};

struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};

/// What a matrix product multiplies in, and where its operations are counted.
struct Arithmetic {
  moeplan_arithmetic id; ///< its index in the table
  const char *name;
  uint64_t moeplan_work::*operations;
};
inline constexpr std::array<Arithmetic, 3> arithmetics = {
    {{MOEPLAN_ARITHMETIC_F32, "f32", &moeplan_work::f32_operations},
     {MOEPLAN_ARITHMETIC_BF16, "bf16", &moeplan_work::bf16_operations},
     {MOEPLAN_ARITHMETIC_INT8, "int8", &moeplan_work::int8_operations}}};

/// What the machine can do with the session's number of threads.
struct MachineRates {
  double readBandwidth = 0;                          // bytes per second
  std::array<double, arithmetics.size()> peaks = {}; // operations per second; 0: not known

  /// Seconds that the operations of `work` take at the peaks.
  double arithmeticSeconds(const moeplan_work &work) const;
  /// Seconds that `work` takes at least: those of its reading or of its arithmetic.
  double floorSeconds(const moeplan_work &work) const;
};

/// All dispatches of a kernel in one decode step or in the prefill.
struct KernelMeasurement {
  std::string phase; ///< "decode" or "prefill"
  std::string kernel;
  std::string implementation;
  uint32_t dispatches = 0;
  double seconds = 0;
  double timeShare = 0; ///< of the phase's kernels together
  moeplan_work work{};
  double floorShare = 0; ///< of `seconds`, what the work takes at least

  double bytesPerSecond() const;
  double operationsPerSecond() const;
};

struct Measurement {
  nlohmann::ordered_json syntheticSeed; // null: the weights are in the file
  std::string plan;
  std::string targetCpu;
  uint32_t threads = 0;
  uint64_t bytesPerToken = 0;              ///< as the plan states them
  std::optional<Spread> firstTokenSeconds; ///< nothing where weights are generated
  Spread prefill, decode;                  ///< tokens per second
  moeplan_work prefillWork{};              ///< of the whole prompt
  moeplan_work decodeWork{};               ///< of all decode steps
  // Each with the larger of two measurements, right before and right after a repetition.
  Spread readBandwidth;  ///< bytes per second
  Spread bandwidthShare; ///< of it, what decoding uses for weights alone
  /// Where a GPU reads experts of the host; of all decode steps.
  uint64_t linkBytes = 0;
  std::optional<Spread> linkBandwidth, linkShare; ///< bytes per second; of it, what decoding uses
  std::array<Spread, arithmetics.size()> peaks;   ///< operations per second
  Spread arithmeticShare; ///< of the time of the prefill, what its operations take at the peaks
  std::vector<KernelMeasurement> kernels; ///< empty unless asked for

  bool knowsPeaks() const { return peaks[0].median > 0; }
};

/// Throws Failure.
Measurement measureBench(const BenchOptions &options);

} // namespace moeplan::tools
