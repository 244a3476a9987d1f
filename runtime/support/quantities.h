// Numbers with units, as they are given on a command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace moeplan {

/// "24GiB", "36.13 GB", "4096": bytes. Nothing where it is none, or not below 2^63.
std::optional<uint64_t> parseBytes(std::string_view text);

/// "25GB/s", "1.5 GiB/s": bytes per second, above 0.
std::optional<double> parseBytesPerSecond(std::string_view text);

/// "10us", "1.5 ms", "2s": seconds, 0 or more.
std::optional<double> parseSeconds(std::string_view text);

} // namespace moeplan
