#include "compiler/planner/multiple_choice.h"

#include "llvm/ADT/STLExtras.h"

#include <algorithm>
#include <cmath>

using namespace llvm;
using namespace moeplan::compiler;

namespace {

using Problem = MultipleChoiceProblem;
using Choices = std::vector<ItemChoice>;

/// Multipliers are searched up to this many ranges of the objective per range of an amount.
constexpr double kLargestMultiplier = 1e5;
/// The dual is maximised to this share of the objective's range.
constexpr double kDualTolerance = 1e-9;
constexpr unsigned kMostEllipsoids = 16;
constexpr unsigned kEllipsoidSteps = 60; ///< of one, per dimension
/// Minimisers of the Lagrangian that the search for a solution starts from.
constexpr size_t kStarts = 6;
/// So few that exchanges are tried from every start: rounding matters most there, and costs least.
constexpr size_t kFewItems = 32;
/// Of exchanges of two choices, those with the best first halves are tried.
constexpr size_t kFirstHalves = 48;
constexpr size_t kMovesPerRound = 16;
constexpr unsigned kMostRounds = 400;
/// Relative slack that rounding of sums may take.
constexpr double kRounding = 1e-12;

double dot(const Amounts &a, const Amounts &b) {
  double sum = 0;
  for (unsigned k = 0; k < kAmounts; ++k)
    sum += a[k] * b[k];
  return sum;
}

void add(Amounts &sum, const Amounts &more, double factor = 1) {
  for (unsigned k = 0; k < kAmounts; ++k)
    sum[k] += factor * more[k];
}

class Solver {
public:
  explicit Solver(const Problem &problem) : problem(problem) {
    if (everyItemCanChoose())
      measureRanges();
    else
      solution.provedInfeasible = true;
  }

  MultipleChoiceSolution run() {
    if (solution.provedInfeasible)
      return solution;
    maximizeDual();
    solution.provedInfeasible = isInfeasible();
    if (isSettled())
      return solution;
    // From every start into the limits, then as good as single moves make it; the best of them as
    // good as exchanges do.
    if (!solution.choices.empty())
      starts.push_back(solution.choices);
    for (Choices &start : starts) {
      Amounts totals = totalsOf(start);
      if (!repair(start, totals))
        continue;
      improve(start, totals, /*byPairs=*/problem.items.size() <= kFewItems);
      keepIfBetter(start, totals);
    }
    if (!solution.choices.empty()) {
      Choices best = solution.choices;
      Amounts totals = solution.totals;
      improve(best, totals, /*byPairs=*/true);
      keepIfBetter(best, totals);
    }
    return solution;
  }

private:
  bool everyItemCanChoose() const {
    return all_of(problem.items, [](const Problem::Item &item) {
      return any_of(item.modes, [](const Problem::Mode &mode) {
        return mode.allowed && all_of(mode.parts, [](ArrayRef<Problem::Option> options) {
                 return any_of(options, [](const auto &option) { return option.allowed; });
               });
      });
    });
  }

  static constexpr unsigned kAllModes = (1u << Problem::kModes) - 1;

  /// The best choice of an item under weights of the amounts, in a set of modes; infinity where it
  /// has none.
  static double bestChoice(const Problem::Item &item, const Amounts &weights, ItemChoice &best,
                           unsigned modes = kAllModes) {
    double least = Problem::kNone;
    for (unsigned m = 0; m < Problem::kModes; ++m) {
      const Problem::Mode &mode = item.modes[m];
      if (!mode.allowed || !(modes >> m & 1))
        continue;
      ItemChoice choice{uint8_t(m), {}};
      double sum = dot(mode.base, weights);
      for (unsigned p = 0; p < Problem::kParts; ++p) {
        double leastOfPart = Problem::kNone;
        for (auto [o, option] : enumerate(mode.parts[p])) {
          if (!option.allowed)
            continue;
          const double value = dot(option.amounts, weights);
          if (value < leastOfPart) {
            leastOfPart = value;
            choice.options[p] = uint8_t(o);
          }
        }
        sum += leastOfPart;
      }
      if (sum < least) {
        least = sum;
        best = choice;
      }
    }
    return least;
  }

  Amounts amountsOf(const Problem::Item &item, const ItemChoice &choice) const {
    const Problem::Mode &mode = item.modes[choice.mode];
    Amounts amounts = mode.base;
    for (unsigned p = 0; p < Problem::kParts; ++p)
      add(amounts, mode.parts[p][choice.options[p]].amounts);
    return amounts;
  }

  Amounts totalsOf(const Choices &choices) const {
    Amounts totals = problem.fixed;
    for (auto [item, choice] : zip_equal(problem.items, choices))
      add(totals, amountsOf(item, choice));
    return totals;
  }

  double objectiveOf(const Amounts &totals) const { return dot(problem.objective, totals); }

  /// The ranges that amounts and objective can have, by which everything is scaled, and the limits
  /// that lie within them: others bind never, or cannot be met.
  void measureRanges() {
    auto least = [&](Amounts weights) {
      double sum = dot(weights, problem.fixed);
      ItemChoice ignored;
      for (const Problem::Item &item : problem.items)
        sum += bestChoice(item, weights, ignored);
      return sum;
    };
    auto range = [&](const Amounts &weights) {
      Amounts negative{};
      add(negative, weights, -1);
      return std::pair(least(weights), -least(negative));
    };
    for (unsigned k = 0; k < kAmounts; ++k) {
      Amounts weights{};
      weights[k] = 1;
      const auto [low, high] = range(weights);
      scale[k] = high > low ? high - low : 1;
      if (high <= problem.limits[k])
        continue;
      limited.push_back(k);
      if (low > problem.limits[k] + kRounding * std::abs(problem.limits[k]))
        solution.provedInfeasible = true;
    }
    const auto [low, high] = range(problem.objective);
    objectiveScale = high > low ? high - low : 1;
    largestObjective = high;
  }

  /// Minimises the Lagrangian at `multipliers` (parallel to `limited`, in ranges of the objective
  /// per range of the amount), notes the bound, and gives the slope of the dual there.
  double evaluateDual(ArrayRef<double> multipliers, SmallVectorImpl<double> &slope) {
    Amounts weights = problem.objective;
    double constant = 0;
    for (auto [k, multiplier] : zip_equal(limited, multipliers)) {
      const double weight = multiplier * objectiveScale / scale[k];
      weights[k] += weight;
      constant -= weight * problem.limits[k];
    }
    Choices choices(problem.items.size());
    double value = constant + dot(weights, problem.fixed);
    for (auto [item, choice] : zip_equal(problem.items, choices))
      value += bestChoice(item, weights, choice);
    const Amounts totals = totalsOf(choices);
    slope.clear();
    for (unsigned k : limited)
      slope.push_back((totals[k] - problem.limits[k]) / scale[k]);
    if (value > solution.lowerBound) {
      solution.lowerBound = value;
      dualWeights = weights;
      bestMultipliers.assign(multipliers.begin(), multipliers.end());
    }
    keepIfBetter(choices, totals);
    if (!is_contained(starts, choices))
      starts.push_back(std::move(choices));
    if (starts.size() > kStarts)
      starts.erase(starts.begin());
    return value;
  }

  /// Whether the bound says all there is to know: nothing of use is within the limits.
  bool isSettled() const { return solution.lowerBound >= problem.cutoff || isInfeasible(); }
  bool isInfeasible() const {
    return solution.lowerBound > largestObjective + std::abs(largestObjective) * 1e-9;
  }

  /// The dual is concave and has a dimension per limit: bisection for one, else ellipsoids. One
  /// that starts around all possible multipliers would be too thin for double precision before it
  /// is small enough, so a row of them follows the best multipliers, each as large as the last one
  /// leaves open.
  void maximizeDual() {
    const size_t n = limited.size();
    SmallVector<double> center(n, 0.0), slope;
    evaluateDual(center, slope);
    if (all_of(slope, [](double s) { return s <= 0; }))
      return; // no limit binds
    if (n == 1)
      return bisectDual();
    SmallVector<double> radii(n, 1.0);
    for (unsigned round = 0, quiet = 0; round < kMostEllipsoids && quiet < 2 && !isSettled();
         ++round) {
      const double before = solution.lowerBound;
      searchEllipsoid(center, radii);
      const bool rose = solution.lowerBound - before > kDualTolerance * objectiveScale;
      quiet = rose ? 0 : quiet + 1;
      for (size_t i = 0; i < n; ++i) {
        const double moved = std::abs(bestMultipliers[i] - center[i]);
        radii[i] = moved > radii[i] / 3 ? std::min(4 * radii[i], kLargestMultiplier)
                                        : std::max(4 * moved, radii[i] / 16);
      }
      center = bestMultipliers;
    }
  }

  void bisectDual() {
    SmallVector<double> slope;
    double low = 0, high = kLargestMultiplier;
    for (unsigned step = 0; step < 80 && high - low > 1e-14 * high && high > 1e-12 && !isSettled();
         ++step) {
      // Multipliers of very different sizes matter: the geometric mean, once above nothing.
      const double middle = low > 0 ? std::sqrt(low * high) : high * 1e-3;
      evaluateDual(middle, slope);
      (slope[0] > 0 ? low : high) = middle;
    }
  }

  /// The ellipsoid method (Bland, Goldfarb and Todd, Operations Research 29, 1981): cuts towards
  /// where the maximum can be, along the slope or back to multipliers >= 0.
  void searchEllipsoid(SmallVector<double> center, ArrayRef<double> radii) {
    const size_t n = center.size();
    std::vector<double> matrix(n * n, 0.0); // of the ellipsoid
    for (size_t i = 0; i < n; ++i)
      matrix[i * n + i] = radii[i] * radii[i];
    SmallVector<double> slope, cut(n), direction(n);
    const double width = double(n), grow = width * width / (width * width - 1),
                 shrink = 2 / (width + 1);
    for (unsigned step = 0; step < kEllipsoidSteps * n && !isSettled(); ++step) {
      const auto *negative = find_if(center, [](double m) { return m < 0; });
      cut.assign(n, 0.0);
      if (negative != center.end()) {
        cut[negative - center.begin()] = 1;
      } else {
        evaluateDual(center, slope);
        cut.assign(slope.begin(), slope.end());
      }
      double length = 0;
      for (size_t i = 0; i < n; ++i) {
        direction[i] = 0;
        for (size_t j = 0; j < n; ++j)
          direction[i] += matrix[i * n + j] * cut[j];
        length += direction[i] * cut[i];
      }
      // Inside, the dual can rise by no more than the root of this. Too thin: see maximizeDual().
      if (length <= kDualTolerance * kDualTolerance)
        return;
      for (size_t i = 0; i < n; ++i) {
        direction[i] /= std::sqrt(length);
        center[i] += direction[i] / (width + 1);
      }
      for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j < n; ++j)
          matrix[i * n + j] = grow * (matrix[i * n + j] - shrink * direction[i] * direction[j]);
    }
  }

  /// Another choice for one item.
  struct Move {
    uint32_t item;
    ItemChoice choice;
    Amounts change;
    double cost; ///< change of the objective
  };

  /// How far totals are beyond the limits, in ranges.
  double violation(const Amounts &totals) const {
    double sum = 0;
    for (unsigned k : limited)
      sum +=
          std::max(0.0, totals[k] - problem.limits[k] - kRounding * std::abs(problem.limits[k])) /
          scale[k];
    return sum;
  }

  double violationAfter(const Amounts &totals, const Move &move) const {
    Amounts after = totals;
    add(after, move.change);
    return violation(after);
  }

  void keepIfBetter(const Choices &choices, const Amounts &totals) {
    if (violation(totals) > 0)
      return;
    const double objective = objectiveOf(totals);
    if (!solution.choices.empty() && objective >= solution.objective)
      return;
    solution.choices = choices;
    solution.totals = totals;
    solution.objective = objective;
  }

  /// Every change of one part, and every change of mode, with the options as they are and with
  /// those that the multipliers favour.
  void forEachMove(const Choices &choices, function_ref<void(const Move &)> visit) const {
    for (auto [index, item] : enumerate(problem.items)) {
      const ItemChoice &now = choices[index];
      const Problem::Mode &mode = item.modes[now.mode];
      for (unsigned p = 0; p < Problem::kParts; ++p) {
        const Amounts &from = mode.parts[p][now.options[p]].amounts;
        for (auto [o, option] : enumerate(mode.parts[p])) {
          if (!option.allowed || o == now.options[p])
            continue;
          Move move{uint32_t(index), now, option.amounts, 0};
          move.choice.options[p] = uint8_t(o);
          add(move.change, from, -1);
          move.cost = dot(problem.objective, move.change);
          visit(move);
        }
      }
      const unsigned other = 1 - now.mode;
      if (!item.modes[other].allowed)
        continue;
      const Amounts from = amountsOf(item, now);
      auto visitChoice = [&](const ItemChoice &choice) {
        Move move{uint32_t(index), choice, amountsOf(item, choice), 0};
        add(move.change, from, -1);
        move.cost = dot(problem.objective, move.change);
        visit(move);
      };
      ItemChoice same{uint8_t(other), now.options};
      bool allowed = true;
      for (unsigned p = 0; p < Problem::kParts; ++p)
        allowed &= item.modes[other].parts[p][same.options[p]].allowed;
      if (allowed)
        visitChoice(same);
      ItemChoice favoured;
      if (bestChoice(item, dualWeights, favoured, 1u << other) < Problem::kNone)
        visitChoice(favoured);
    }
  }

  static void apply(const Move &move, Choices &choices, Amounts &totals) {
    choices[move.item] = move.choice;
    add(totals, move.change);
  }

  /// Moves into the limits, first by what costs least for what it gains; false where it is stuck.
  bool repair(Choices &choices, Amounts &totals) const {
    for (double beyond = violation(totals); beyond > 0;) {
      std::vector<std::pair<double, Move>> helpful; // by what they cost for what they gain
      forEachMove(choices, [&](const Move &move) {
        const double gained = beyond - violationAfter(totals, move);
        if (gained > 0)
          helpful.emplace_back(std::max(move.cost / objectiveScale, 1e-12) / gained, move);
      });
      if (helpful.empty())
        return false;
      stable_sort(helpful, [](const auto &a, const auto &b) { return a.first < b.first; });
      // As many as still help, a few per round: what they gain changes with every one.
      std::vector<bool> touched(problem.items.size());
      size_t applied = 0;
      for (const auto &[rate, move] : helpful) {
        if (touched[move.item] || violationAfter(totals, move) >= beyond)
          continue;
        touched[move.item] = true;
        apply(move, choices, totals);
        beyond = violation(totals);
        if (beyond == 0 || ++applied >= kMovesPerRound)
          break;
      }
    }
    return true;
  }

  /// Takes moves, or pairs of moves, that lower the objective within the limits, those that lower
  /// it most first, until none does.
  void improve(Choices &choices, Amounts &totals, bool byPairs) const {
    const double least = 1e-10 * objectiveScale;
    for (unsigned round = 0; round < kMostRounds; ++round) {
      std::vector<Move> good, tempting, moves;
      forEachMove(choices, [&](const Move &move) {
        if (byPairs)
          moves.push_back(move);
        if (move.cost < -least)
          (violationAfter(totals, move) > 0 ? tempting : good).push_back(move);
      });
      stable_sort(good, [](const Move &a, const Move &b) { return a.cost < b.cost; });
      std::vector<bool> touched(problem.items.size());
      for (const Move &move : good) {
        if (touched[move.item] || violationAfter(totals, move) > 0)
          continue;
        touched[move.item] = true;
        apply(move, choices, totals);
      }
      if (good.empty() && (!byPairs || !improveByPair(choices, totals, tempting, moves, least)))
        return;
    }
  }

  bool improveByPair(Choices &choices, Amounts &totals, std::vector<Move> &tempting,
                     ArrayRef<Move> moves, double least) const {
    // Those that gain most for what they are beyond the limits.
    auto rank = [&](const Move &move) { return move.cost / violationAfter(totals, move); };
    const size_t count = std::min(kFirstHalves, tempting.size());
    std::partial_sort(tempting.begin(), tempting.begin() + count, tempting.end(),
                      [&](const Move &a, const Move &b) { return rank(a) < rank(b); });
    const Move *first = nullptr, *second = nullptr;
    double bestCost = -least;
    for (const Move &a : ArrayRef(tempting).take_front(count)) {
      Amounts between = totals;
      add(between, a.change);
      for (const Move &b : moves) {
        if (b.item == a.item || a.cost + b.cost >= bestCost)
          continue;
        if (violationAfter(between, b) > 0)
          continue;
        bestCost = a.cost + b.cost;
        first = &a;
        second = &b;
      }
    }
    if (!first)
      return false;
    const Move a = *first, b = *second;
    apply(a, choices, totals);
    apply(b, choices, totals);
    return true;
  }

  const Problem &problem;
  SmallVector<unsigned> limited;
  Amounts scale{};
  double objectiveScale = 1, largestObjective = 0;
  Amounts dualWeights{};               ///< at the best bound
  SmallVector<double> bestMultipliers; ///< there too
  std::vector<Choices> starts;
  MultipleChoiceSolution solution;
};

} // namespace

MultipleChoiceSolution
moeplan::compiler::solveMultipleChoice(const MultipleChoiceProblem &problem) {
  return Solver(problem).run();
}
