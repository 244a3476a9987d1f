#include "runtime/tools/bench_switches.h"

#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <random>

namespace moeplan::tools {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

/// Tokens of a plan between two switches, of which its median is taken.
constexpr size_t settledTokens = 32;
/// More than the last level of any cache that a core has to itself or shares with few.
constexpr size_t cacheBytes = size_t{64} << 20;
/// A switch that takes more tokens than this is given up.
constexpr size_t mostTokens = 1 << 20;

double percentile(std::vector<double> values, double share) {
  if (values.empty())
    return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * double(values.size())))];
}

Tail tail(const std::vector<double> &values) {
  return {percentile(values, 0.5), percentile(values, 0.99)};
}

/// A token.
struct Step {
  double seconds;
  std::string plan; ///< that computed it
};

/// What the events of one switch have said; told by another thread.
class SwitchWatch {
public:
  void operator()(const moeplan_event &event) {
    const std::lock_guard lock(mutex_);
    switch (event.kind) {
    case MOEPLAN_EVENT_STAGING:
      neededBytes = event.bytes;
      break;
    case MOEPLAN_EVENT_EVICTED:
      evictedBytes += event.bytes;
      break;
    case MOEPLAN_EVENT_FLIPPED:
      stagingSeconds = event.seconds;
      break;
    case MOEPLAN_EVENT_COMPLETED:
      movedBytes = event.bytes;
      completed = true;
      break;
    case MOEPLAN_EVENT_FAILED:
      failure = event.reason ? event.reason : "failed";
      break;
    default:
      break;
    }
  }

  /// Throws Failure where the switch has failed.
  bool isCompleted() {
    const std::lock_guard lock(mutex_);
    if (!failure.empty())
      throw Failure(failure);
    return completed;
  }
  void reset() {
    const std::lock_guard lock(mutex_);
    neededBytes = evictedBytes = movedBytes = 0;
    completed = false;
  }

  // Read when the switch is completed.
  uint64_t neededBytes = 0, evictedBytes = 0, movedBytes = 0;
  double stagingSeconds = 0;

private:
  std::mutex mutex_;
  bool completed = false;
  std::string failure;
};

class SwitchBench {
public:
  SwitchBench(const BenchOptions &bench, const SwitchBenchOptions &options)
      : bench_(bench), options_(options),
        artifact_(openAndLoad(bench.artifact, bench.plan, bench.loading)),
        model_(moeplan_artifact_model_info(artifact_.get())),
        control_(*artifact_, options.control,
                 [this](const moeplan_event &event) { watch_(event); }) {}

  SwitchMeasurement run();

private:
  std::vector<std::string> choosePlans() const;
  moeplan_memory_counters counters() {
    return moeplan_runtime_memory_counters(&control_.runtime());
  }
  void step();
  void settle();
  void measureCold();
  void switchTo(const std::string &plan);
  void notice(size_t requested);

  const BenchOptions &bench_;
  const SwitchBenchOptions &options_;
  Owned<moeplan_artifact> artifact_;
  moeplan_model_info model_;
  SwitchWatch watch_;
  Control control_;
  Owned<moeplan_session> session_;
  std::mt19937 random_{1};
  std::vector<Step> steps_;
  std::map<std::string, std::vector<double>> settled_; ///< seconds of tokens, by plan
  std::map<std::string, std::vector<double>> cold_;    ///< the same with cold caches
  std::vector<char> rubbish_ = std::vector<char>(cacheBytes);
  struct Noticed {
    Step before, after;
    double slowest;
  };
  std::vector<Noticed> noticed_;
};

std::vector<std::string> SwitchBench::choosePlans() const {
  if (!options_.plans.empty())
    return options_.plans;
  std::vector<std::string> plans;
  for (size_t i = 0; i < moeplan_artifact_plan_count(artifact_.get()); ++i)
    plans.emplace_back(moeplan_artifact_plan_name(artifact_.get(), i));
  return plans;
}

void SwitchBench::step() {
  if (moeplan_session_position(session_.get()) == moeplan_session_context_length(session_.get()))
    moeplan_session_reset(session_.get());
  const auto token = static_cast<int32_t>(random_() % model_.vocab_size);
  const std::string plan = moeplan_session_plan_name(session_.get());
  const auto start = Clock::now();
  check(moeplan_session_append(session_.get(), &token, 1, 1));
  steps_.push_back({secondsSince(start), plan});
}

void SwitchBench::settle() {
  for (size_t i = 0; i < settledTokens; ++i) {
    step();
    settled_[steps_.back().plan].push_back(steps_.back().seconds);
  }
}

/// A token when other data is in the caches, which is what the first one behind an exchange meets.
void SwitchBench::measureCold() {
  for (size_t i = 0; i < rubbish_.size(); i += 64)
    ++rubbish_[i];
  step();
  cold_[steps_.back().plan].push_back(steps_.back().seconds);
}

/// Decodes until the switch is over, and finds the exchange among the tokens.
void SwitchBench::switchTo(const std::string &plan) {
  watch_.reset();
  const size_t requested = steps_.size();
  check(moeplan_session_switch_plan(session_.get(), plan.c_str(), nullptr));
  while (!watch_.isCompleted()) {
    if (steps_.size() - requested > mostTokens)
      throw Failure("a switch to '" + plan + "' does not end");
    step();
  }
  step(); // the exchange may have been behind the last one
  notice(requested);
}

void SwitchBench::notice(size_t requested) {
  Noticed noticed{steps_[requested], steps_[requested], 0};
  for (size_t i = requested; i < steps_.size(); ++i) {
    noticed.slowest = std::max(noticed.slowest, steps_[i].seconds);
    if (i > 0 && steps_[i].plan != steps_[i - 1].plan) {
      noticed.before = steps_[i - 1];
      noticed.after = steps_[i];
    }
  }
  noticed_.push_back(noticed);
}

SwitchMeasurement SwitchBench::run() {
  SwitchMeasurement result;
  result.plans = choosePlans();
  if (result.plans.size() < 2)
    throw Failure("switches need two plans, there is one");
  const uint32_t context = std::min(model_.max_context, bench_.promptTokens + bench_.genTokens);
  session_ =
      createSession(*artifact_, result.plans.front(), context, bench_.threads, &control_.runtime());
  result.device = options_.control.device;
  result.targetCpu = moeplan_session_target_cpu(session_.get());
  result.threads = moeplan_session_threads(session_.get());
  result.switches = options_.switches;
  result.copyBandwidth = counters().copy_bandwidth;
  settle(); // the first tokens touch weights and KV cache for the first time
  settled_.clear();
  settle();

  Progress progress("switches", options_.switches, "switches");
  std::vector<double> staging;
  double stagingSum = 0, throughLink = 0;
  for (uint32_t i = 1; i <= options_.switches; ++i) {
    const uint64_t copiedBefore = counters().copied_bytes;
    switchTo(result.plans[i % result.plans.size()]);
    staging.push_back(watch_.stagingSeconds);
    stagingSum += watch_.stagingSeconds;
    throughLink += static_cast<double>(
        result.copyBandwidth > 0 ? counters().copied_bytes - copiedBefore : watch_.movedBytes);
    result.movedBytes += watch_.movedBytes;
    result.neededBytes += watch_.neededBytes;
    result.evictedBytes += watch_.evictedBytes;
    settle();
    measureCold();
    progress.update(i);
  }
  progress.finish();

  std::map<std::string, double> medians;
  for (const auto &[plan, seconds] : settled_) {
    medians[plan] = percentile(seconds, 0.5);
    result.tokenSeconds = std::max(result.tokenSeconds, medians[plan]);
  }
  for (const auto &[plan, seconds] : cold_)
    result.coldTokenSeconds = std::max(result.coldTokenSeconds, percentile(seconds, 0.5));
  std::vector<double> ordinary;
  for (const auto &[plan, seconds] : settled_)
    for (double second : seconds)
      ordinary.push_back(second / medians[plan]);
  result.ordinaryRatio = tail(ordinary);
  std::vector<double> stalls, ratios, slowest;
  for (const Noticed &noticed : noticed_) {
    stalls.push_back(std::max(noticed.before.seconds, noticed.after.seconds));
    ratios.push_back(std::max(noticed.before.seconds / medians[noticed.before.plan],
                              noticed.after.seconds / medians[noticed.after.plan]));
    slowest.push_back(noticed.slowest);
  }
  result.stallSeconds = tail(stalls);
  result.stallRatio = tail(ratios);
  result.slowestSeconds = tail(slowest);
  result.stagingSeconds = tail(staging);
  if (result.copyBandwidth <= 0)
    check(moeplan_measure_read_bandwidth(1, uint64_t{1} << 28, 3, &result.copyBandwidth));
  result.bandwidthShare = throughLink / std::max(stagingSum, 1e-9) / result.copyBandwidth;
  return result;
}

std::string milliseconds(double seconds) { return formatRate(1e3 * seconds) + " ms"; }

Json tailJson(const Tail &tail) { return {{"p50", tail.p50}, {"p99", tail.p99}}; }

} // namespace

SwitchMeasurement measureSwitches(const BenchOptions &bench, const SwitchBenchOptions &options) {
  return SwitchBench(bench, options).run();
}

std::string switchesMarkdown(const BenchOptions &bench, const SwitchMeasurement &measurement) {
  std::string plans;
  for (const std::string &plan : measurement.plans)
    plans += (plans.empty() ? "" : ", ") + plan;
  auto row = [](const std::string &name, const std::string &p50, const std::string &p99) {
    return "| " + name + " | " + p50 + " | " + p99 + " |\n";
  };
  auto times = [&](const std::string &name, const Tail &tail) {
    return row(name, milliseconds(tail.p50), milliseconds(tail.p99));
  };
  const double switches = measurement.switches;
  return fileName(bench.artifact) + " on " + measurement.device + ", " + measurement.targetCpu +
         ", " + std::to_string(measurement.threads) +
         " threads: " + std::to_string(measurement.switches) + " switches between " + plans +
         "\n\n|  | p50 | p99 |\n|---|---:|---:|\n" +
         times("stall per switch", measurement.stallSeconds) +
         row("over the median token", formatRate(measurement.stallRatio.p50),
             formatRate(measurement.stallRatio.p99)) +
         row("ordinary tokens over it", formatRate(measurement.ordinaryRatio.p50),
             formatRate(measurement.ordinaryRatio.p99)) +
         times("slowest token of a switch", measurement.slowestSeconds) +
         times("staging", measurement.stagingSeconds) +
         "\nmedian token: " + milliseconds(measurement.tokenSeconds) + ", with cold caches " +
         milliseconds(measurement.coldTokenSeconds) + " (of the slowest plan)\nmoved per switch: " +
         formatBytes(double(measurement.movedBytes) / switches) + ", of a difference of " +
         formatBytes(double(measurement.neededBytes) / switches) +
         "; evicted: " + formatBytes(double(measurement.evictedBytes) / switches) +
         "\ncopy bandwidth: " + formatBytes(measurement.copyBandwidth) +
         "/s\nshare of it: " + formatRate(100 * measurement.bandwidthShare) +
         "%\n\nA stall is the slower of the tokens right before and right after the exchange.\n";
}

Json switchesJson(const BenchOptions &bench, const SwitchMeasurement &measurement) {
  return {{"artifact", fileName(bench.artifact)},
          {"device", measurement.device},
          {"target_cpu", measurement.targetCpu},
          {"threads", measurement.threads},
          {"plans", measurement.plans},
          {"switches", measurement.switches},
          {"token_seconds", measurement.tokenSeconds},
          {"cold_token_seconds", measurement.coldTokenSeconds},
          {"stall_seconds", tailJson(measurement.stallSeconds)},
          {"stall_ratio", tailJson(measurement.stallRatio)},
          {"ordinary_ratio", tailJson(measurement.ordinaryRatio)},
          {"slowest_token_seconds", tailJson(measurement.slowestSeconds)},
          {"staging_seconds", tailJson(measurement.stagingSeconds)},
          {"moved_bytes", measurement.movedBytes},
          {"needed_bytes", measurement.neededBytes},
          {"evicted_bytes", measurement.evictedBytes},
          {"copy_bandwidth", measurement.copyBandwidth},
          {"bandwidth_share", measurement.bandwidthShare}};
}

} // namespace moeplan::tools
