// Threads that run the phases of a program together.
#pragma once

#include "runtime/device/signal.h"
#include "runtime/device/tile_ranges.h"
#include "runtime/support/status.h"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace moeplan {

/// Work for a pool: phases one behind the other, each a row of tiles that may run in any order and
/// at the same time. What a phase did is visible to the next one.
class Phases {
public:
  virtual ~Phases() = default;
  virtual uint32_t count() const = 0;
  virtual uint32_t tiles(uint32_t phase) const = 0;
  /// Called on any threads of the pool, for ranges that together have each tile once. Must not
  /// throw.
  virtual void run(uint32_t phase, TileRange range) = 0;
};

/// A fixed set of threads, the caller of run() among them. Nobody waits for a thread to come: a
/// phase ends when its tiles have been run, by whichever threads were there, and who ends it begins
/// the next. Between phases and runs threads spin for a short while and then sleep. Used by one
/// thread at a time. run() allocates nothing, takes no lock and starts no thread.
class ThreadPool {
public:
  /// Starts `threads` - 1 workers; fewer where the system refuses.
  explicit ThreadPool(unsigned threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }

  /// Binds every thread to a CPU of its own, thread t to the t-th of cpusForPinning(). Workers stay
  /// there; the caller of run() is bound while it is inside and has its mask back afterwards, which
  /// costs three system calls a run. Errors: MOEPLAN_UNSUPPORTED where there are fewer CPUs than
  /// threads or the system refuses; some workers may then be bound.
  Status pinThreads();

  /// Runs all phases and returns when all have ended.
  void run(Phases &phases);

private:
  void work(unsigned thread);
  void runTiles(unsigned thread);
  void beginPhase(uint32_t phase);

  // Of the run under way. Stable for a thread that has taken tiles and not yet counted them as run.
  alignas(64) std::atomic<uint32_t> unfinishedTiles_{0};
  Phases *phases_ = nullptr;
  uint32_t phase_ = 0;
  std::atomic<bool> running_{false};

  Signal changes_; ///< advanced when a phase begins, when a run ends and when the pool does
  std::atomic<bool> stop_{false};
  TileRanges tiles_;
  std::vector<std::thread> workers_;
  std::vector<int> cpus_; ///< of each thread; empty: not pinned
};

} // namespace moeplan
