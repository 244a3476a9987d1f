// Which weight is in which memory, and who needs it there.
#pragma once

#include "runtime/artifact/artifact.h"
#include "runtime/device/cuda/cuda_device.h"
#include "runtime/device/cuda/staged_copy.h"
#include "runtime/device/device.h"
#include "runtime/residency/plan_weights.h"
#include "runtime/residency/weight_generator.h"
#include "runtime/support/status.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace moeplan {

/// How weights are brought in.
struct Staging {
  /// Of the bandwidth, in (0, 1]: between two parts, as much time is left to others.
  double share = 1;
  /// Whether weights that are read where they are mapped are left to be read on demand, unchecked.
  bool onDemand = false;
  /// Asked between two parts; false: stop with MOEPLAN_CANCELLED. May be empty.
  std::function<bool()> keepGoing = {};
};

/// What has been moved since the beginning.
struct ResidencyCounters {
  std::atomic<uint64_t> stagedBytes{0};   ///< brought into a memory where they were not
  std::atomic<uint64_t> copiedBytes{0};   ///< of these over the link to the device
  std::atomic<uint64_t> releasedBytes{0}; ///< given up, because nobody needed them any more
  std::atomic<uint64_t> evictedBytes{0};  ///< given up while a plan needed them
  std::atomic<uint64_t> hits{0};          ///< routed experts found in a cache slot
  std::atomic<uint64_t> misses{0};        ///< routed experts that were not on the device
  std::atomic<uint64_t> missBytes{0};     ///< that passed the link for them
};

/// Weights have a count of references per memory: brought in with the first, given up with the
/// last. Those of the memory that the device's budget is for are counted against it: the device's
/// own, or the host's where it has none. Every weight can be read in the host's memory at any time;
/// being held there means that it has been read and checked. May be used from any number of
/// threads.
class Residency {
public:
  /// Both must outlive it.
  Residency(const Artifact &artifact, Device &device);

  /// Lets the device make synthetic weights from now on; null: the host makes them.
  void setGenerator(std::unique_ptr<WeightGenerator> generator) {
    generator_ = std::move(generator);
  }

  /// Adds a reference, and brings the weight in, checked against its checksum, where it is the
  /// first. Errors: MOEPLAN_RESOURCE_EXHAUSTED, MOEPLAN_IO_ERROR, MOEPLAN_CORRUPT, naming the
  /// segment, and MOEPLAN_CANCELLED; there is then no new reference.
  Status acquire(Held held, const Staging &staging);
  /// Adds a reference if there is one.
  bool adopt(Held held);
  void release(Held held);
  bool isHeld(Held held) const;
  /// Waits for what acquire() has sent to the device: it returns when the last part of a weight is
  /// under way, so that the link is never idle between two.
  Status finishCopies();

  /// Where kernels read a weight; it has to be held where that is in the device's memory, or by a
  /// cuda device.
  const std::byte *address(Held held) const;
  /// Where the CPU reads a weight that is held in the host's memory, or nowhere; null where it is
  /// in the memory of a cuda device.
  const std::byte *hostAddress(Held held) const;
  /// A plan that was made for no device has everything in the memory of a cuda device: that cannot
  /// run it from where it is mapped.
  PlanWeights weightsOf(const fb::Plan &plan) const {
    return moeplan::weightsOf(plan, device_.cuda() && !usesDevice(plan));
  }
  uint64_t bytesOf(uint32_t segment) const;
  std::string nameOf(uint32_t segment) const;
  /// Whether it counts against the device's budget.
  bool counts(fb::Residency memory) const {
    return (memory == fb::Residency::device) == device_.hasOwnMemory();
  }

  /// Whether the bytes of a weight that is held are those of the artifact.
  bool isIntact(Held held) const;
  /// Copies a weight to the device again. Nobody may read it meanwhile.
  Status repair(Held held);

  const Artifact &artifact() const { return artifact_; }
  Device &device() const { return device_; }
  ResidencyCounters &counters() { return counters_; }

private:
  using Clock = std::chrono::steady_clock;

  struct Entry {
    uint32_t references = 0;
    DeviceMemory memory; ///< counted, and on a device with a memory of its own the copy
    PinnedMemory pinned; ///< a copy in the host's memory, where a cuda device can read no other
  };
  Entry &entry(Held held) { return entries_[static_cast<size_t>(held.memory)][held.segment]; }
  const Entry &entry(Held held) const {
    return entries_[static_cast<size_t>(held.memory)][held.segment];
  }
  Status bringIn(Held held, const Staging &staging, Entry &entry);
  Status copyParts(Held held, std::byte *target, const Staging &staging);
  Status readParts(Held held, std::byte *target, const Staging &staging);
  Status generateParts(Held held, std::byte *target, const Staging &staging);
  Status finishCopying();
  void releaseSource(uint32_t segment);
  void rest(Clock::duration worked, double share);
  Status checkSum(uint32_t segment, uint64_t digest) const;

  const Artifact &artifact_;
  Device &device_;
  ResidencyCounters counters_;
  std::unique_ptr<WeightGenerator> generator_;
  std::mutex stagingMutex_; ///< held while one weight is brought in
  Clock::duration restDue_{0};
  Device::Transfer copying_;            ///< the last one under way
  std::optional<StagedCopy> toCuda_;    ///< in its place on a cuda device
  std::vector<uint32_t> copiedSources_; ///< whose pages have not been given back yet
  uint64_t copiedSourceBytes_ = 0;
  mutable std::mutex mutex_;                  ///< of the entries
  std::array<std::vector<Entry>, 2> entries_; ///< by memory and segment
};

/// References to weights, given back on destruction.
class Lease {
public:
  explicit Lease(Residency &residency) : residency_(&residency) {}
  ~Lease();
  Lease(const Lease &) = delete;
  Lease &operator=(const Lease &) = delete;

  Status acquire(Held held, const Staging &staging);
  bool adopt(Held held);
  /// Gives one reference back; nothing where it has none.
  void release(Held held);
  /// Gives all back, with a pause behind each where that unmaps pages: it interrupts every thread
  /// of the process.
  void releaseGently();
  bool has(Held held) const;

private:
  Residency *residency_;
  std::vector<Held> held_; ///< sorted
};

} // namespace moeplan
