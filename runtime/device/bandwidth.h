// The machine's read bandwidth, by which decode speed is judged.
#pragma once

#include "runtime/support/status.h"

#include <cstdint>

namespace moeplan {

/// See moeplan_measure_read_bandwidth().
Result<double> measureReadBandwidth(unsigned threads, uint64_t bytes, unsigned repetitions);

} // namespace moeplan
