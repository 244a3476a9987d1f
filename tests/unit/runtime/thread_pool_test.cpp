#include "runtime/device/thread_pool.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

namespace moeplan::testing {
namespace {

constexpr uint32_t kMaxChunks = 64;

/// Counts how often each chunk ran. Plain numbers: run() orders everything before and behind it.
struct Counts {
  std::atomic<uint32_t> of[kMaxChunks] = {};

  static void count(const void *context, uint32_t chunk) {
    static_cast<Counts *>(const_cast<void *>(context))
        ->of[chunk]
        .fetch_add(1, std::memory_order_relaxed);
  }
};

class ThreadPoolTest : public ::testing::TestWithParam<unsigned> {};

TEST_P(ThreadPoolTest, EveryChunkOfManySmallJobsRunsOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  Counts counts;
  uint32_t expected[kMaxChunks] = {};
  constexpr uint32_t kJobs = 40000;
  for (uint32_t job = 0; job < kJobs; ++job) {
    const uint32_t chunks = job * 7 % 23; // 0 among them
    pool.run(Counts::count, &counts, chunks);
    for (uint32_t chunk = 0; chunk < chunks; ++chunk)
      ++expected[chunk];
    // Every job's effects are visible when it has returned, not only the last one's.
    for (uint32_t chunk = 0; chunk < chunks; ++chunk)
      ASSERT_EQ(counts.of[chunk].load(std::memory_order_relaxed), expected[chunk])
          << "job " << job << ", chunk " << chunk;
  }
}

/// A job that writes where the next job reads, without atomics: a race for the sanitizers to see.
struct Relay {
  uint64_t cells[kMaxChunks] = {};
  uint64_t sums[kMaxChunks] = {};

  static void write(const void *context, uint32_t chunk) {
    auto &relay = *static_cast<Relay *>(const_cast<void *>(context));
    relay.cells[chunk] += chunk + 1;
  }
  static void sum(const void *context, uint32_t chunk) {
    auto &relay = *static_cast<Relay *>(const_cast<void *>(context));
    relay.sums[chunk] =
        std::accumulate(std::begin(relay.cells), std::end(relay.cells), uint64_t(0));
  }
};

TEST_P(ThreadPoolTest, AJobSeesWhatTheJobBeforeItWrote) {
  ThreadPool pool(GetParam());
  auto relay = std::make_unique<Relay>();
  for (uint64_t round = 1; round <= 5000; ++round) {
    pool.run(Relay::write, relay.get(), kMaxChunks);
    pool.run(Relay::sum, relay.get(), 9);
    for (uint32_t chunk = 0; chunk < 9; ++chunk)
      ASSERT_EQ(relay->sums[chunk], round * kMaxChunks * (kMaxChunks + 1) / 2) << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Range(1u, 9u));

TEST(ThreadPoolTest, APoolMayEndWithoutHavingWorked) {
  for (unsigned threads = 1; threads <= 8; ++threads)
    for (int i = 0; i < 20; ++i)
      ThreadPool pool(threads);
}

TEST(ThreadPoolTest, APoolMayEndRightBehindAJob) {
  for (int i = 0; i < 200; ++i) {
    Counts counts;
    {
      ThreadPool pool(4);
      pool.run(Counts::count, &counts, 16);
    }
    for (uint32_t chunk = 0; chunk < 16; ++chunk)
      ASSERT_EQ(counts.of[chunk], 1u);
  }
}

TEST(ThreadPoolTest, PoolsAreIndependent) {
  ThreadPool first(3), second(2);
  Counts a, b;
  for (int i = 0; i < 1000; ++i) {
    first.run(Counts::count, &a, 10);
    second.run(Counts::count, &b, 5);
  }
  EXPECT_EQ(a.of[9], 1000u);
  EXPECT_EQ(b.of[4], 1000u);
  EXPECT_EQ(b.of[5], 0u);
}

TEST(ThreadPoolTest, ThereIsAtLeastOnePhysicalCore) {
  EXPECT_GE(availablePhysicalCores(), 1u);
  EXPECT_LE(availablePhysicalCores(), std::max(1u, std::thread::hardware_concurrency()));
}

} // namespace
} // namespace moeplan::testing
