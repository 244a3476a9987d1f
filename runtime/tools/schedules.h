// When `moeplan run` changes plans and budgets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moeplan::tools {

struct PlannedSwitch {
  uint64_t tokens; ///< generated before it
  std::string plan;
};

/// "32:fast,64:quality", in rising order. Throws a CLI::ValidationError.
std::vector<PlannedSwitch> parseSwitches(const std::string &text);

struct PlannedBudget {
  double seconds; ///< since midnight
  uint64_t bytes;
};

/// Lines of a time of day and a number of bytes, as "08:30 24GiB" or "18:00:30 36.13 GB", in rising
/// order; '#' starts a comment. Throws a Failure with `origin` and the line.
std::vector<PlannedBudget> parseBudgets(const std::string &text, const std::string &origin);

} // namespace moeplan::tools
