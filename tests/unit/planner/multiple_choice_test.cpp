#include "compiler/planner/multiple_choice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace moeplan::compiler;

namespace {

using Problem = MultipleChoiceProblem;

/// Items whose options trade quality for bytes and time, as formats do, with noise.
Problem randomProblem(std::mt19937 &random, size_t items, size_t options) {
  auto uniform = [&](double low, double high) {
    return low + (high - low) * double(random() % 10000) / 10000;
  };
  Problem problem;
  problem.objective[kNats] = 1;
  for (size_t i = 0; i < items; ++i) {
    Problem::Item item;
    const double importance = std::exp(uniform(-2, 2)), usage = uniform(0.1, 0.5);
    for (unsigned m = 0; m < Problem::kModes; ++m) {
      for (auto &part : item.modes[m].parts)
        for (size_t o = 0; o < options; ++o) {
          const double bytes = std::round(1000.0 / double(o + 1) * uniform(0.9, 1.1));
          Problem::Option option;
          option.amounts[kNats] = importance * double(o * o) * uniform(0.8, 1.2);
          option.amounts[m == 0 ? kHostBytes : kDeviceBytes] = bytes;
          option.amounts[kExpertBytes] = bytes;
          option.amounts[kSeconds] = usage * bytes * (m == 0 ? 10 : 1);
          part.push_back(option);
        }
    }
    problem.items.push_back(std::move(item));
  }
  return problem;
}

Amounts amountsOf(const Problem &problem, const std::vector<ItemChoice> &choices) {
  Amounts totals = problem.fixed;
  for (size_t i = 0; i < choices.size(); ++i) {
    const Problem::Mode &mode = problem.items[i].modes[choices[i].mode];
    for (unsigned k = 0; k < kAmounts; ++k) {
      totals[k] += mode.base[k];
      for (unsigned p = 0; p < Problem::kParts; ++p)
        totals[k] += mode.parts[p][choices[i].options[p]].amounts[k];
    }
  }
  return totals;
}

/// The least objective of all combinations, or infinity.
double exhaustive(const Problem &problem) {
  // Sums of all choices of each item, then of all items.
  std::vector<Amounts> sums{problem.fixed};
  for (const Problem::Item &item : problem.items) {
    std::vector<Amounts> next;
    for (const Problem::Mode &mode : item.modes) {
      if (!mode.allowed)
        continue;
      for (const auto &a : mode.parts[0])
        for (const auto &b : mode.parts[1])
          for (const auto &c : mode.parts[2]) {
            if (!a.allowed || !b.allowed || !c.allowed)
              continue;
            for (const Amounts &sum : sums) {
              Amounts total = sum;
              bool within = true;
              for (unsigned k = 0; k < kAmounts; ++k) {
                total[k] += mode.base[k] + a.amounts[k] + b.amounts[k] + c.amounts[k];
                within &= total[k] <= problem.limits[k]; // amounts are never negative
              }
              if (within)
                next.push_back(total);
            }
          }
    }
    sums = std::move(next);
  }
  double least = Problem::kNone;
  for (const Amounts &sum : sums) {
    double objective = 0;
    for (unsigned k = 0; k < kAmounts; ++k)
      objective += problem.objective[k] * sum[k];
    least = std::min(least, objective);
  }
  return least;
}

/// Limits between the least and the most that is possible.
void limitRandomly(Problem &problem, std::mt19937 &random) {
  Problem free = problem;
  for (unsigned k : {kSeconds, kDeviceBytes, kExpertBytes}) {
    if (random() % 3 == 0)
      continue;
    free.objective = {};
    free.objective[k] = 1;
    const double least = solveMultipleChoice(free).objective;
    free.objective[k] = -1;
    const double most = -solveMultipleChoice(free).objective;
    problem.limits[k] = least + (most - least) * (0.1 + 0.6 * double(random() % 100) / 100);
  }
}

TEST(MultipleChoice, IsNearTheBestOfAllCombinations) {
  std::mt19937 random(7);
  unsigned solved = 0, close = 0, optimal = 0;
  for (unsigned trial = 0; trial < 60; ++trial) {
    Problem problem = randomProblem(random, 3, 3);
    limitRandomly(problem, random);
    const double best = exhaustive(problem);
    const MultipleChoiceSolution solution = solveMultipleChoice(problem);
    if (best == Problem::kNone) {
      EXPECT_TRUE(solution.choices.empty());
      continue;
    }
    ASSERT_FALSE(solution.choices.empty()) << "trial " << trial;
    const Amounts totals = amountsOf(problem, solution.choices);
    for (unsigned k = 0; k < kAmounts; ++k)
      EXPECT_LE(totals[k], problem.limits[k] * (1 + 1e-9));
    EXPECT_NEAR(totals[kNats], solution.objective, 1e-9 * (1 + std::abs(solution.objective)));
    EXPECT_GE(solution.objective, best - 1e-9);
    EXPECT_LE(solution.lowerBound, best + 1e-9 * (1 + best)) << "the bound must be one";
    ++solved;
    // Three items leave much to rounding.
    close += solution.objective <= best * 1.25 + 1e-9;
    optimal += solution.objective <= best * (1 + 1e-9) + 1e-12;
  }
  EXPECT_GT(solved, 40u);
  EXPECT_GE(close, solved - 2);
  EXPECT_GT(optimal, solved * 3 / 4);
}

TEST(MultipleChoice, GapToTheBoundIsSmallForManyItems) {
  std::mt19937 random(3);
  for (unsigned trial = 0; trial < 5; ++trial) {
    Problem problem = randomProblem(random, 256, 5);
    limitRandomly(problem, random);
    const MultipleChoiceSolution solution = solveMultipleChoice(problem);
    if (solution.choices.empty())
      continue;
    EXPECT_LE(solution.objective - solution.lowerBound, 0.005 * solution.objective + 1e-9)
        << "trial " << trial;
  }
}

TEST(MultipleChoice, TakesTheUnlimitedOptimumWhereNoLimitBinds) {
  std::mt19937 random(1);
  Problem problem = randomProblem(random, 10, 4);
  const MultipleChoiceSolution solution = solveMultipleChoice(problem);
  EXPECT_DOUBLE_EQ(solution.objective, 0);
  EXPECT_DOUBLE_EQ(solution.lowerBound, 0);
}

TEST(MultipleChoice, ProvesThatNothingIsWithinTheLimits) {
  std::mt19937 random(1);
  Problem problem = randomProblem(random, 10, 4);
  problem.limits[kExpertBytes] = 100;
  const MultipleChoiceSolution solution = solveMultipleChoice(problem);
  EXPECT_TRUE(solution.choices.empty());
  EXPECT_TRUE(solution.provedInfeasible);
}

TEST(MultipleChoice, HonoursForbiddenModesAndOptions) {
  std::mt19937 random(5);
  Problem problem = randomProblem(random, 6, 3);
  for (auto &item : problem.items) {
    item.modes[1].allowed = false;
    item.modes[0].parts[2][0].allowed = false;
  }
  const MultipleChoiceSolution solution = solveMultipleChoice(problem);
  ASSERT_EQ(solution.choices.size(), 6u);
  for (const ItemChoice &choice : solution.choices) {
    EXPECT_EQ(choice.mode, 0);
    EXPECT_NE(choice.options[2], 0);
  }
}

TEST(MultipleChoice, GivesUpWhereTheBoundIsBeyondTheCutoff) {
  std::mt19937 random(9);
  Problem problem = randomProblem(random, 20, 4);
  problem.limits[kExpertBytes] = 20000;
  const MultipleChoiceSolution solution = solveMultipleChoice(problem);
  ASSERT_FALSE(solution.choices.empty());
  problem.cutoff = solution.lowerBound * 0.9;
  EXPECT_LE(solveMultipleChoice(problem).lowerBound, solution.objective);
}

} // namespace
