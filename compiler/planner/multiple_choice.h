// A multiple-choice knapsack problem with several budgets, solved by Lagrangian relaxation and
// local repair.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace moeplan::compiler {

/// Amounts that a choice adds to the totals.
enum Amount : unsigned { kNats, kSeconds, kDeviceBytes, kHostBytes, kExpertBytes, kAmounts };
using Amounts = std::array<double, kAmounts>;

/// Every item (an expert) chooses a mode (where it is), and for each of its parts (linears) an
/// option (a format); a part's amounts depend on mode and option, and are summed up.
struct MultipleChoiceProblem {
  static constexpr unsigned kModes = 2, kParts = 3;
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  struct Option {
    Amounts amounts{};
    bool allowed = true;
  };
  struct Mode {
    bool allowed = true;
    Amounts base{}; ///< of the mode itself
    std::array<std::vector<Option>, kParts> parts;
  };
  struct Item {
    std::array<Mode, kModes> modes;
  };

  std::vector<Item> items;
  Amounts fixed{};     ///< that everything adds to
  Amounts objective{}; ///< weights of the amounts in what is minimised
  Amounts limits = {kNone, kNone, kNone, kNone, kNone}; ///< of the totals, `fixed` included
  /// A solution that is no better than this is of no use and need not be looked for.
  double cutoff = kNone;
};

struct ItemChoice {
  uint8_t mode = 0;
  std::array<uint8_t, MultipleChoiceProblem::kParts> options{};
  bool operator==(const ItemChoice &) const = default;
};

struct MultipleChoiceSolution {
  std::vector<ItemChoice> choices; ///< empty where nothing within the limits was found
  Amounts totals{};
  double objective = 0;
  /// No solution can be better: the largest value of the Lagrangian dual that was met, which at its
  /// maximum is the value of the linear program.
  double lowerBound = -std::numeric_limits<double>::infinity();
  /// The dual proves that nothing is within the limits.
  bool provedInfeasible = false;
};

/// Deterministic. `items` may be some hundreds with some options each: tens of milliseconds.
MultipleChoiceSolution solveMultipleChoice(const MultipleChoiceProblem &problem);

} // namespace moeplan::compiler
