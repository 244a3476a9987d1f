#include "runtime/tools/schedules.h"

#include "runtime/support/quantities.h"
#include "runtime/tools/common.h"

#include <charconv>
#include <optional>
#include <sstream>

namespace moeplan::tools {
namespace {

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos)
    return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::optional<uint64_t> parseNumber(std::string_view text) {
  uint64_t value = 0;
  const char *const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end ? std::optional(value) : std::nullopt;
}

/// "HH:MM" or "HH:MM:SS": seconds since midnight.
std::optional<double> parseTimeOfDay(std::string_view text) {
  constexpr uint64_t limits[] = {24, 60, 60};
  uint64_t seconds = 0;
  for (size_t part = 0; part < 3; ++part) {
    const std::string_view digits = text.substr(0, text.find(':'));
    text.remove_prefix(std::min(digits.size() + 1, text.size()));
    const auto value =
        part == 2 && digits.empty() ? std::optional(uint64_t{0}) : parseNumber(digits);
    if (!value || *value >= limits[part])
      return std::nullopt;
    seconds = seconds * 60 + *value;
  }
  return text.empty() ? std::optional(static_cast<double>(seconds)) : std::nullopt;
}

} // namespace

std::vector<PlannedSwitch> parseSwitches(const std::string &text) {
  std::vector<PlannedSwitch> switches;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t colon = part.find(':');
    const auto tokens =
        colon == std::string::npos ? std::nullopt : parseNumber(part.substr(0, colon));
    if (!tokens || colon + 1 == part.size())
      throw CLI::ValidationError("--switch-at",
                                 "TOKENS:PLAN expected, as 32:fast, \"" + part + "\" given");
    if (!switches.empty() && *tokens <= switches.back().tokens)
      throw CLI::ValidationError("--switch-at", "tokens must rise: \"" + part + "\"");
    switches.push_back({*tokens, part.substr(colon + 1)});
  }
  return switches;
}

std::vector<PlannedBudget> parseBudgets(const std::string &text, const std::string &origin) {
  std::vector<PlannedBudget> budgets;
  std::istringstream lines(text);
  size_t number = 0;
  for (std::string whole; std::getline(lines, whole);) {
    ++number;
    const std::string_view line = trimmed(std::string_view(whole).substr(0, whole.find('#')));
    if (line.empty())
      continue;
    const std::string where = origin + ":" + std::to_string(number) + ": ";
    const std::string_view time = line.substr(0, line.find_first_of(" \t"));
    const auto seconds = parseTimeOfDay(time);
    const auto bytes = parseBytes(trimmed(line.substr(time.size())));
    if (!seconds || !bytes)
      throw Failure(where + "a time and a number of bytes expected, as 08:30 24GiB");
    if (!budgets.empty() && *seconds <= budgets.back().seconds)
      throw Failure(where + "times must rise");
    budgets.push_back({*seconds, *bytes});
  }
  if (budgets.empty())
    throw Failure(origin + ": has no budget");
  return budgets;
}

} // namespace moeplan::tools
