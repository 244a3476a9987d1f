// Threads that split the tiles of a program's commands.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace moeplan {

/// Physical cores this process may run on, at least 1: its affinity mask, counting the threads of a
/// core once, and no more than a cgroup's CPU quota.
unsigned availablePhysicalCores();

/// A fixed set of threads, the caller among them. Workers spin for a short while for the next job
/// and then sleep; a job that comes while they sleep is begun by the caller and does not wait for
/// them to wake. Used by one thread at a time. run() allocates nothing and takes no lock.
class ThreadPool {
public:
  /// Starts `threads` - 1 workers; fewer where the system refuses.
  explicit ThreadPool(unsigned threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }

  /// Calls job(context, 0) .. job(context, chunks - 1), each once, on any threads, and returns when
  /// all have returned.
  using Job = void (*)(const void *context, uint32_t chunk);
  void run(Job job, const void *context, uint32_t chunks);

private:
  void work();
  bool runOneChunk();
  uint32_t waitForWork(uint32_t lastEpoch);

  // High half: number of the job. Low half: chunks not yet begun. A chunk is taken by counting it
  // down in one step with the job's number, so a late worker can never take one of a later job
  // while looking at an earlier one's description.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> unfinished_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<uint32_t> wakeups_{0};
  std::atomic<bool> stop_{false};
  Job job_ = nullptr;
  const void *context_ = nullptr;
  std::vector<std::thread> workers_;
};

} // namespace moeplan
