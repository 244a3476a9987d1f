#include "runtime/device/signal.h"

#include <chrono>
#include <sched.h>

namespace moeplan {

namespace {

using Clock = std::chrono::steady_clock;

/// Longer than a wait for a thread that runs and has its last tile to do.
constexpr std::chrono::microseconds kSpinFor(50);
/// Longer than choosing a token takes, so that threads are awake for the next one; beyond it the
/// CPU is worth more than the tens of microseconds that waking costs.
constexpr std::chrono::microseconds kSleepAfter(200);
/// About a microsecond, in which the clock is not read.
constexpr int kLooksPerClock = 32;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

} // namespace

void Signal::advance() {
  // Sequentially consistent against waitWhile(): either a sleeper sees the new value or it is seen.
  value_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0)
    value_.notify_all();
}

void Signal::waitWhile(uint32_t old) {
  const Clock::time_point begin = Clock::now();
  for (Clock::duration waited{}; waited < kSleepAfter; waited = Clock::now() - begin) {
    if (waited > kSpinFor)
      sched_yield();
    for (int look = 0; look < kLooksPerClock; ++look) {
      if (value() != old)
        return;
      relax();
    }
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == old)
    value_.wait(old, std::memory_order_seq_cst);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

} // namespace moeplan
