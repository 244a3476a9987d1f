#include "runtime/device/thread_pool.h"

#include "runtime/device/affinity.h"

#include <optional>
#include <string>
#include <system_error>

namespace moeplan {

ThreadPool::ThreadPool(unsigned threads) : tiles_(threads) {
  workers_.reserve(threads);
  for (unsigned thread = 1; thread < threads; ++thread) {
    try {
      workers_.emplace_back([this, thread] { work(thread); });
    } catch (const std::system_error &) {
      break;
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  changes_.advance();
  for (std::thread &worker : workers_)
    worker.join();
}

Status ThreadPool::pinThreads() {
  std::vector<int> cpus = cpusForPinning();
  if (cpus.size() < threads())
    return unsupported("cannot pin " + std::to_string(threads()) +
                       " threads: the process may run on " + std::to_string(cpus.size()) + " CPUs");
  cpus.resize(threads());
  MOEPLAN_TRY(ScopedPin(cpus[0]).status());
  for (size_t worker = 0; worker < workers_.size(); ++worker)
    MOEPLAN_TRY(pinThread(workers_[worker].native_handle(), cpus[worker + 1]));
  cpus_ = std::move(cpus);
  return {};
}

void ThreadPool::run(Phases &phases) {
  std::optional<ScopedPin> pin;
  if (!cpus_.empty())
    pin.emplace(cpus_[0]);
  if (workers_.empty()) {
    for (uint32_t phase = 0; phase < phases.count(); ++phase)
      phases.run(phase, {0, phases.tiles(phase)});
    return;
  }
  phases_ = &phases;
  running_.store(true, std::memory_order_relaxed);
  beginPhase(0);
  while (running_.load(std::memory_order_acquire)) {
    const uint32_t change = changes_.value();
    runTiles(0);
    if (running_.load(std::memory_order_acquire))
      changes_.waitWhile(change);
  }
}

/// Begins `phase`, or ends the run behind the last one. Called while no other thread has tiles.
void ThreadPool::beginPhase(uint32_t phase) {
  for (; phase < phases_->count(); ++phase) {
    const uint32_t tiles = phases_->tiles(phase);
    if (tiles > 1) {
      phase_ = phase;
      unfinishedTiles_.store(tiles, std::memory_order_relaxed);
      tiles_.assign(tiles);
      return changes_.advance();
    }
    // One tile is done sooner than others have come to look for it.
    if (tiles == 1)
      phases_->run(phase, {0, 1});
  }
  running_.store(false, std::memory_order_release);
  changes_.advance();
}

/// Runs tiles of the phase under way until none is left, if any is.
void ThreadPool::runTiles(unsigned thread) {
  TileRange range = tiles_.take(thread);
  if (range.empty())
    return;
  uint32_t finished = 0;
  for (; !range.empty(); range = tiles_.take(thread)) {
    phases_->run(phase_, range);
    finished += range.size();
  }
  if (unfinishedTiles_.fetch_sub(finished, std::memory_order_acq_rel) == finished)
    beginPhase(phase_ + 1);
}

void ThreadPool::work(unsigned thread) {
  for (;;) {
    // Read before looking for tiles: those of a phase that begins meanwhile are not missed.
    const uint32_t change = changes_.value();
    if (stop_.load(std::memory_order_relaxed))
      return;
    runTiles(thread);
    changes_.waitWhile(change);
  }
}

} // namespace moeplan
