#include "runtime/support/quantities.h"

#include <charconv>
#include <cmath>
#include <span>

namespace moeplan {

namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr Unit kByteUnits[] = {{"", 1},
                               {"B", 1},
                               {"kB", 1e3},
                               {"MB", 1e6},
                               {"GB", 1e9},
                               {"TB", 1e12},
                               {"KiB", 1024.0},
                               {"MiB", 1048576.0},
                               {"GiB", 1073741824.0},
                               {"TiB", 1099511627776.0}};
constexpr Unit kSecondUnits[] = {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};

/// A number that is not negative, perhaps a blank, and a unit.
std::optional<double> parse(std::string_view text, std::span<const Unit> units) {
  double value = 0;
  const char *const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || !std::isfinite(value) || value < 0)
    return std::nullopt;
  std::string_view name(stop, static_cast<size_t>(end - stop));
  if (name.starts_with(' '))
    name.remove_prefix(1);
  for (const Unit &unit : units)
    if (unit.name == name)
      return value * unit.factor;
  return std::nullopt;
}

} // namespace

std::optional<uint64_t> parseBytes(std::string_view text) {
  const auto bytes = parse(text, kByteUnits);
  if (!bytes || *bytes >= 0x1p63)
    return std::nullopt;
  return static_cast<uint64_t>(*bytes);
}

std::optional<double> parseBytesPerSecond(std::string_view text) {
  constexpr std::string_view suffix = "/s";
  if (!text.ends_with(suffix))
    return std::nullopt;
  const auto rate = parse(text.substr(0, text.size() - suffix.size()), kByteUnits);
  return rate && *rate > 0 ? rate : std::nullopt;
}

std::optional<double> parseSeconds(std::string_view text) { return parse(text, kSecondUnits); }

} // namespace moeplan
