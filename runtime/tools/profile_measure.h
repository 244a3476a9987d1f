// What `moeplan profile` measures with probes.
#pragma once

#include "runtime/tools/common.h"
#include "runtime/tools/profile_fit.h"

#include <nlohmann/json.hpp>

#include <map>
#include <string>
#include <vector>

namespace moeplan::tools {

struct ProfileOptions {
  std::vector<std::string> probes;
  ThreadOptions threads;
  uint32_t repetitions = 15;
};

/// What the steps of a plan read and compute, from the description of its artifact. Experts count
/// as often as a token is routed to them on average.
struct PlanWork {
  std::map<std::string, double> matrixBytes;      ///< of a decode step, by width
  std::map<std::string, double> matrixOperations; ///< of a token, by width
  double vectorBytes = 0, heldBytes = 0;
  double kvBytesPerPosition = 0; ///< once for each query head
  double layers = 0;
};
PlanWork planWork(const nlohmann::json &description, const std::string &plan);

/// Times of all plans of the probes, and the memory's bandwidth by threads. `threads` is set to how
/// many the sessions have. Throws Failure.
FitInput measureProbes(const ProfileOptions &options, uint32_t &threads,
                       std::map<uint32_t, double> &readBytesPerSecond);

} // namespace moeplan::tools
