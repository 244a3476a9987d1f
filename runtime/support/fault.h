// Places where something outside the program may fail, and how tests make it.
#pragma once

#ifndef MOEPLAN_FAULT_POINTS
#error "name the source among fault_sources in runtime/CMakeLists.txt"
#endif

#ifdef MOEPLAN_FAULT_INJECTION
#include <array>
#include <atomic>
#include <cstdint>
#endif

namespace moeplan {

enum class FaultPoint { allocation, read, copy, checksum, kernelLoad };

#ifdef MOEPLAN_FAULT_INJECTION

inline constexpr std::array kFaultPoints = {FaultPoint::allocation, FaultPoint::read,
                                            FaultPoint::copy, FaultPoint::checksum,
                                            FaultPoint::kernelLoad};

/// Lets chosen points fail. One for the process: for tests alone, which link a runtime of their
/// own.
class FaultInjector {
public:
  static FaultInjector &instance() {
    static FaultInjector injector;
    return injector;
  }

  /// The `nth` point of this kind that is reached from now on fails, once; 0: none does. By kind,
  /// since threads that work side by side reach points in another order each time.
  void arm(FaultPoint kind, uint64_t nth) {
    nth_ = 0;
    reached_ = 0;
    kind_ = kind;
    nth_ = nth;
  }
  /// Whether the armed failure has happened.
  bool fired() const { return nth_ != 0 && reached_ >= nth_; }

  bool at(FaultPoint point) { return nth_ != 0 && point == kind_ && ++reached_ == nth_; }

private:
  std::atomic<FaultPoint> kind_{FaultPoint::allocation};
  std::atomic<uint64_t> reached_{0}, nth_{0};
};

/// Whether the caller is to fail here.
inline bool faultAt(FaultPoint point) { return FaultInjector::instance().at(point); }

#else

constexpr bool faultAt(FaultPoint) { return false; }

#endif

} // namespace moeplan
