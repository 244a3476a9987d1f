// Actions in the pause between two steps.
#include "runtime/session/boundary.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace moeplan::testing {
namespace {

TEST(BoundaryTest, RunsAtOnceWhereNothingSteps) {
  Boundary boundary;
  const auto self = std::this_thread::get_id();
  std::thread::id ran;
  boundary.run([&] { ran = std::this_thread::get_id(); });
  EXPECT_EQ(ran, self);
}

TEST(BoundaryTest, WaitsForTheStepAndRunsOnItsThread) {
  Boundary boundary;
  std::atomic<bool> inStep = true, asked = false;
  std::thread::id ran;
  std::thread other;
  {
    const Boundary::Step step(boundary);
    other = std::thread([&] {
      asked = true;
      boundary.run([&] {
        EXPECT_FALSE(inStep);
        ran = std::this_thread::get_id();
      });
    });
    while (!asked)
      std::this_thread::yield();
    inStep = false;
  }
  other.join();
  // On this one where it had asked before the step ended, else on its own.
  EXPECT_NE(ran, std::thread::id());
}

TEST(BoundaryTest, NoActionIsLostOrRunInAStep) {
  Boundary boundary;
  std::atomic<bool> stop = false, inStep = false;
  std::thread stepping([&] {
    while (!stop) {
      const Boundary::Step step(boundary);
      inStep = true;
      inStep = false;
    }
  });
  int runs = 0; // the boundary orders them
  std::vector<std::thread> others;
  for (int thread = 0; thread < 3; ++thread)
    others.emplace_back([&] {
      for (int i = 0; i < 200; ++i)
        boundary.run([&] {
          EXPECT_FALSE(inStep);
          ++runs;
        });
    });
  for (std::thread &other : others)
    other.join();
  stop = true;
  stepping.join();
  EXPECT_EQ(runs, 600);
}

} // namespace
} // namespace moeplan::testing
