#include "runtime/device/thread_pool.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sched.h>
#include <set>
#include <string>
#include <system_error>

namespace moeplan {

namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Some tens of microseconds: longer than the gap between two commands of a token, short enough not
/// to burn a core while the caller samples or waits for input.
constexpr int kSpinsBeforeSleep = 4000;
/// The caller only yields: its wait is bounded by the work that is under way.
constexpr int kSpinsBeforeYield = 1000;

uint32_t epochOf(uint64_t ticket) { return static_cast<uint32_t>(ticket >> 32); }
uint32_t remainingOf(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

/// CPUs that the cgroup's quota is worth; infinity without one.
double cgroupCpus() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0)
    return INFINITY;
  return std::atof(quota.c_str()) / period;
}

} // namespace

unsigned availablePhysicalCores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0)
    return std::max(1u, std::thread::hardware_concurrency());
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask))
      continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!(file >> siblings))
      siblings = "cpu" + std::to_string(cpu);
    cores.insert(siblings);
  }
  const double limit = std::max(1.0, std::ceil(cgroupCpus()));
  return static_cast<unsigned>(std::clamp<double>(static_cast<double>(cores.size()), 1.0, limit));
}

ThreadPool::ThreadPool(unsigned threads) {
  workers_.reserve(threads);
  for (unsigned i = 1; i < threads; ++i) {
    try {
      workers_.emplace_back([this] { work(); });
    } catch (const std::system_error &) {
      break;
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wakeups_.fetch_add(1);
  wakeups_.notify_all();
  for (std::thread &worker : workers_)
    worker.join();
}

void ThreadPool::run(Job job, const void *context, uint32_t chunks) {
  if (chunks <= 1 || workers_.empty()) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk)
      job(context, chunk);
    return;
  }
  job_ = job;
  context_ = context;
  unfinished_.store(chunks, std::memory_order_relaxed);
  const uint32_t epoch = epochOf(ticket_.load(std::memory_order_relaxed)) + 1;
  // Sequentially consistent against waitForWork(): either it sees the ticket or we see the sleeper.
  ticket_.store(uint64_t(epoch) << 32 | chunks, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    wakeups_.fetch_add(1, std::memory_order_release);
    wakeups_.notify_all();
  }
  while (runOneChunk()) {
  }
  for (int spins = 0; unfinished_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpinsBeforeYield)
      relax();
    else
      sched_yield();
  }
}

bool ThreadPool::runOneChunk() {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (remainingOf(ticket) == 0)
      return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire));
  // The job cannot end before this chunk does, so its description is stable.
  job_(context_, remainingOf(ticket) - 1);
  unfinished_.fetch_sub(1, std::memory_order_release);
  return true;
}

/// Returns when the job's number is no longer `lastEpoch`, or at the end of the pool.
uint32_t ThreadPool::waitForWork(uint32_t lastEpoch) {
  for (int spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    const uint32_t epoch = epochOf(ticket_.load(std::memory_order_acquire));
    if (epoch != lastEpoch || stop_.load(std::memory_order_relaxed))
      return epoch;
    relax();
  }
  for (;;) {
    const uint32_t wakeups = wakeups_.load(std::memory_order_acquire);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t epoch = epochOf(ticket_.load(std::memory_order_seq_cst));
    if (epoch == lastEpoch && !stop_.load())
      wakeups_.wait(wakeups, std::memory_order_acquire);
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    if (epoch != lastEpoch || stop_.load())
      return epoch;
    if (const uint32_t now = epochOf(ticket_.load(std::memory_order_acquire)); now != lastEpoch)
      return now;
  }
}

void ThreadPool::work() {
  uint32_t epoch = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (!runOneChunk())
      epoch = waitForWork(epoch);
  }
}

} // namespace moeplan
