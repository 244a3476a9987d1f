// The tiny checkpoint, compiled into artifacts with several plans, and sessions that generate from
// it.
#pragma once

#include "runtime/artifact/artifact.h"
#include "runtime/control/runtime.h"
#include "tests/support/files.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace moeplan::testing {

/// Artifacts that moeplanc made, once for the process.
struct Artifacts {
  /// Plans for a device: `int8`, `int4`, `twin` (the same as int4), `half` (int4 on the device in
  /// half of the layers, int8 on the host in the others, streamed). With a canary.
  static const std::filesystem::path &device();
  /// Plans without one: `full` (bf16), `int8`, `int4`. With a canary.
  static const std::filesystem::path &host();
  /// One expert per layer on the device, the others on the host, all int4: `all` (all of them on
  /// the device), `stream`, `in_place`, `host_compute`, `cached` (3 slots).
  static const std::filesystem::path &misses();
  /// Plans for CUDA devices of compute capability 9.0, besides CPUs: `bf16`, `int8`, `int4` (all on
  /// the device), `split` (as int4, with half of the experts on the host, read in place),
  /// `stream`, `cached` and `host_compute` (the same, with these strategies; 2 slots a layer).
  static const std::filesystem::path &cuda();
  /// For the same devices, planned: `planned`, bf16, more than half of the experts on the host,
  /// which computes them.
  static const std::filesystem::path &planned();
  /// The shapes of the tiny checkpoint with synthetic weights, for CUDA devices and CPUs: `split`
  /// (int4, one expert of each layer on the host, read in place) and `host_compute`.
  static const std::filesystem::path &synthetic();
};

std::unique_ptr<Artifact> open(const std::filesystem::path &path);

/// Events in the order in which they were told.
class EventLog {
public:
  EventListener listener() {
    return [this](const Event &event) {
      const std::lock_guard lock(mutex_);
      events_.push_back(event);
    };
  }
  std::vector<Event> events() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  /// How many there are of a kind; the last of them.
  size_t count(moeplan_event_kind kind) const;
  Event last(moeplan_event_kind kind) const;
  /// Waits, for at most 20 seconds, until there are `count` of them.
  bool waitFor(moeplan_event_kind kind, size_t count = 1) const;

private:
  mutable std::mutex mutex_;
  std::vector<Event> events_;
};

/// A runtime with a session, which is closed first.
class Served {
public:
  Served(const Artifact &artifact, const char *plan, std::string_view device = "cpu",
         uint32_t context = 256, uint32_t threads = 1);
  ~Served() { runtime->closeSession(session); }
  Served(const Served &) = delete;

  /// Appends the prompt, the same for all tests; then `count` tokens, each the likeliest.
  void prompt();
  std::vector<int32_t> generate(size_t count);
  Status switchTo(const char *plan) { return runtime->switchPlan(*session, plan, true); }
  Device &device() { return runtime->backend().device(); }
  Residency &residency() { return runtime->backend().residency(); }

  EventLog log;
  std::shared_ptr<Runtime> runtime;
  Session *session = nullptr;

private:
  int32_t next_ = 0;
};

/// The prompt of Served.
const std::vector<int32_t> &promptTokens();

/// What `plan` generates without any switch.
std::vector<int32_t> tokensOf(const Artifact &artifact, const char *plan, std::string_view device,
                              size_t count);

/// Bytes of weights that `to` keeps in a memory where `from` keeps none.
uint64_t difference(const Artifact &artifact, const char *from, const char *to);

} // namespace moeplan::testing
