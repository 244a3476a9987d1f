// Numbers with units, as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace moeplan {

/// "0 B", "1023 B", "1.5 KiB", "93.1 GiB": powers of 1024.
std::string formatBytes(double bytes);

/// "45 s", "3 min 05 s", "2 h 07 min"; whole seconds, rounded up. "?" where it is negative or no
/// number.
std::string formatDuration(double seconds);

/// Four significant digits, never in scientific notation: "0.06311", "13.26", "8123".
std::string formatRate(double perSecond);

} // namespace moeplan
