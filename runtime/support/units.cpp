#include "runtime/support/units.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace moeplan {
namespace {

std::string formatFixed(double value, int decimals, const char *unit) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f%s", decimals, value, unit);
  return text.data();
}

} // namespace

std::string formatBytes(double bytes) {
  static constexpr std::array units = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  size_t unit = 0;
  while (bytes >= 1023.95 && unit + 1 < units.size()) { // 1023.95 would be printed as 1024.0
    bytes /= 1024;
    ++unit;
  }
  return formatFixed(bytes, unit == 0 ? 0 : 1, units[unit]);
}

std::string formatDuration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9)
    return "?";
  const auto whole = static_cast<uint64_t>(std::ceil(seconds));
  std::array<char, 64> text{};
  auto print = [&](const char *format, uint64_t large, uint64_t small) {
    std::snprintf(text.data(), text.size(), format, static_cast<unsigned long long>(large),
                  static_cast<unsigned long long>(small));
    return std::string(text.data());
  };
  if (whole < 60)
    return std::to_string(whole) + " s";
  if (whole < 3600)
    return print("%llu min %02llu s", whole / 60, whole % 60);
  return print("%llu h %02llu min", whole / 3600, whole / 60 % 60);
}

std::string formatRate(double perSecond) {
  if (!(perSecond > 0) || std::isinf(perSecond))
    return "0";
  const int digits = static_cast<int>(std::floor(std::log10(perSecond))) + 1;
  return formatFixed(perSecond, std::clamp(4 - digits, 0, 12), "");
}

} // namespace moeplan
