// The runtime of a command: its device, its canary, and its events as lines.
#pragma once

#include "runtime/tools/common.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace moeplan::tools {

struct ControlOptions {
  std::string device = "cpu";
  std::optional<double> bandwidthShare = std::nullopt;
  std::string canary = {}; ///< a text; empty: the artifact's
  std::optional<uint64_t> canaryEvery = std::nullopt;
  std::optional<double> maxPerplexityIncrease = std::nullopt; ///< a fraction
  std::optional<double> maxDivergence = std::nullopt;
};

/// `--device`.
void addDeviceOption(CLI::App &command, std::string &device);
/// `--bandwidth-share`.
void addBandwidthShareOption(CLI::App &command, std::optional<double> &share);
/// `--canary` and what belongs to it.
void addCanaryOptions(CLI::App &command, ControlOptions &options);

using EventHandler = std::function<void(const moeplan_event &)>;

/// A runtime that tells `onEvent`, which may be empty, of its events: on any thread, one at a time.
/// Owns what the callback needs. Sessions must be freed before.
class Control {
public:
  Control(const moeplan_artifact &artifact, const ControlOptions &options, EventHandler onEvent);

  moeplan_runtime &runtime() { return *runtime_; }

private:
  void setCanary(const moeplan_artifact &artifact, const ControlOptions &options);

  std::unique_ptr<EventHandler> onEvent_;
  Owned<moeplan_runtime> runtime_;
};

/// One key per field that the kind of event states.
nlohmann::ordered_json eventJson(const moeplan_event &event);
/// The same for people: "switch to 'fast': flipped at token 32, 1.2 MiB in 0.01 s".
std::string eventLine(const moeplan_event &event);

} // namespace moeplan::tools
