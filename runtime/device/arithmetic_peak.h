// How fast the machine multiplies and adds, by which the speed of prefill is judged.
#pragma once

#include "runtime/support/status.h"

#include <cstdint>

namespace moeplan {

/// See moeplan_measure_arithmetic_peak().
Result<double> measureArithmeticPeak(moeplan_arithmetic arithmetic, unsigned threads,
                                     unsigned repetitions);

} // namespace moeplan
