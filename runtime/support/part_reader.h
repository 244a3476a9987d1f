// Parts of something, read by several threads ahead of who takes them in their order.
#pragma once

#include "runtime/support/status.h"

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace moeplan {

/// Used by one thread, which takes and releases every part, in their order. Destroying it waits for
/// reads that are under way.
class PartReader {
public:
  /// Called for each part once, on any threads. Must not throw.
  using Read = std::function<Status(uint64_t part)>;

  /// Reads part p once p - `ahead` has been released. Starts at most `threads`; fewer where the
  /// system refuses, and none for a single part: the caller reads what nobody has begun.
  PartReader(uint64_t parts, uint64_t ahead, unsigned threads, Read read);
  ~PartReader();
  PartReader(const PartReader &) = delete;
  PartReader &operator=(const PartReader &) = delete;

  /// Returns when `part` has been read. Errors: what reading it gave.
  Status take(uint64_t part);
  /// Its place may be used again.
  void release(uint64_t part);

private:
  void work();

  const uint64_t parts_, ahead_;
  const Read read_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_ = 0, released_ = 0;
  bool stopped_ = false;
  struct Outcome {
    bool isThere = false;
    Status status;
  };
  std::vector<Outcome> outcomes_; ///< of part p at p % ahead
  std::vector<std::thread> threads_;
};

} // namespace moeplan
