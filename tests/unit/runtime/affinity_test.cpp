#include "runtime/device/affinity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

namespace moeplan::testing {
namespace {

cpu_set_t currentMask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  EXPECT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
  return mask;
}

TEST(AffinityTest, ThereIsAtLeastOnePhysicalCore) {
  EXPECT_GE(availablePhysicalCores(), 1u);
  EXPECT_LE(availablePhysicalCores(), std::max(1u, std::thread::hardware_concurrency()));
}

TEST(AffinityTest, EveryAllowedCpuIsThereOnceForPinning) {
  const cpu_set_t mask = currentMask();
  const std::vector<int> cpus = cpusForPinning();
  EXPECT_EQ(cpus.size(), size_t(CPU_COUNT(&mask)));
  EXPECT_EQ(std::set<int>(cpus.begin(), cpus.end()).size(), cpus.size());
  for (int cpu : cpus)
    EXPECT_TRUE(CPU_ISSET(cpu, &mask)) << cpu;
}

TEST(AffinityTest, APinLastsAsLongAsItsScope) {
  const cpu_set_t before = currentMask();
  for (int cpu : cpusForPinning()) {
    {
      const ScopedPin pin(cpu);
      ASSERT_TRUE(pin.status().ok()) << pin.status().message();
      const cpu_set_t inside = currentMask();
      EXPECT_EQ(CPU_COUNT(&inside), 1);
      EXPECT_TRUE(CPU_ISSET(cpu, &inside));
      EXPECT_EQ(cpusForPinning(), std::vector<int>{cpu});
      EXPECT_EQ(availablePhysicalCores(), 1u);
    }
    const cpu_set_t after = currentMask();
    EXPECT_TRUE(CPU_EQUAL(&before, &after));
  }
}

TEST(AffinityTest, ACpuThatIsNotThereIsRefusedAndChangesNothing) {
  const cpu_set_t before = currentMask();
  {
    const ScopedPin pin(CPU_SETSIZE - 1);
    EXPECT_EQ(pin.status().code(), MOEPLAN_UNSUPPORTED);
    EXPECT_EQ(pin.status().message().rfind("cannot pin a thread to CPU 1023: ", 0), 0u);
  }
  const cpu_set_t after = currentMask();
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

} // namespace
} // namespace moeplan::testing
