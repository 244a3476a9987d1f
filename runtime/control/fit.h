// What the plans of an artifact would take of a machine, before anything of them is loaded.
#pragma once

#include "runtime/session/session.h"

#include <string>
#include <vector>

namespace moeplan {

/// A plan, and the first session of it.
struct PlanFit {
  const fb::Plan *plan = nullptr;
  /// Empty where the device can run it.
  std::string cannotRun;
  /// Of the memory that the device's budget is for: weights, KV cache, what a session works with.
  uint64_t bytes = 0;
  /// Of the host's besides, where the device has a memory of its own.
  uint64_t hostBytes = 0;
  uint32_t expertsOnDevice = 0, expertsOnHost = 0;
  /// Of weights, of one token decoded alone, from either; all experts of a layer are as likely.
  /// What is found in a cache slot is the device's.
  double bytesPerToken = 0, hostBytesPerToken = 0;
  bool fits = false;
};

struct MachineFit {
  uint64_t budget = 0;        ///< of the device, or what the host has available
  uint64_t hostAvailable = 0; ///< of the host's memory
  std::vector<PlanFit> plans; ///< in the artifact's order
};

/// For sessions with `options`, whose plan is not looked at. Errors: those of Session::check().
Result<MachineFit> fitOf(Backend &backend, SessionOptions options);
/// See moeplan_runtime_fit().
std::string describe(const MachineFit &fit);

} // namespace moeplan
