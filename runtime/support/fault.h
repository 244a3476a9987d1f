// Places where something outside the program may fail, and how tests make it.
#pragma once

#ifndef MOEPLAN_FAULT_POINTS
#error "name the source among fault_sources in runtime/CMakeLists.txt"
#endif

#ifdef MOEPLAN_FAULT_INJECTION
#include <atomic>
#include <cstdint>
#endif

namespace moeplan {

enum class FaultPoint { allocation, read, copy, checksum, kernelLoad };

#ifdef MOEPLAN_FAULT_INJECTION

/// Lets chosen points fail. One for the process: for tests alone, which link a runtime of their
/// own.
class FaultInjector {
public:
  static FaultInjector &instance() {
    static FaultInjector injector;
    return injector;
  }

  /// The `nth` point that is reached from now on fails, once; 0: none does.
  void arm(uint64_t nth) {
    reached_ = 0;
    nth_ = nth;
  }
  /// Points reached since arm().
  uint64_t reached() const { return reached_; }
  /// Where the armed failure happened, and whether it has.
  bool fired() const { return nth_ != 0 && reached_ >= nth_; }
  FaultPoint where() const { return where_; }

  bool at(FaultPoint point) {
    if (++reached_ != nth_)
      return false;
    where_ = point;
    return true;
  }

private:
  std::atomic<uint64_t> reached_{0}, nth_{0};
  std::atomic<FaultPoint> where_{FaultPoint::allocation};
};

/// Whether the caller is to fail here.
inline bool faultAt(FaultPoint point) { return FaultInjector::instance().at(point); }

#else

constexpr bool faultAt(FaultPoint) { return false; }

#endif

} // namespace moeplan
