// A number that threads wait for.
#pragma once

#include <atomic>
#include <cstdint>

namespace moeplan {

/// Counts up; threads wait until it does. They spin first, since what they wait for mostly comes
/// within microseconds, then let others have the CPU, and sleep at last. Neither side takes a lock
/// or allocates, and advancing makes a system call only where a thread sleeps. What happened before
/// advance() is visible to a thread that has seen the new value.
class alignas(64) Signal {
public:
  uint32_t value() const { return value_.load(std::memory_order_acquire); }
  void advance();
  /// Returns when the value is no longer `old`.
  void waitWhile(uint32_t old);

private:
  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};

} // namespace moeplan
