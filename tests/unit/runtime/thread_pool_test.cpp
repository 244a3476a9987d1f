#include "runtime/device/thread_pool.h"

#include "runtime/device/affinity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <sched.h>
#include <string>
#include <unistd.h>

namespace moeplan::testing {
namespace {

/// Phases of given numbers of tiles, and what to do with them.
class TestPhases : public Phases {
public:
  using Body = std::function<void(uint32_t phase, TileRange range)>;
  TestPhases(std::vector<uint32_t> tiles, Body body)
      : tiles_(std::move(tiles)), body_(std::move(body)) {}

  uint32_t count() const override { return static_cast<uint32_t>(tiles_.size()); }
  uint32_t tiles(uint32_t phase) const override { return tiles_[phase]; }
  void run(uint32_t phase, TileRange range) override { body_(phase, range); }

private:
  std::vector<uint32_t> tiles_;
  Body body_;
};

/// A phase with as many tiles as the pool has threads, each of which ends only when all have begun:
/// every thread runs exactly one of them.
void onEveryThread(ThreadPool &pool, const std::function<void()> &body) {
  std::atomic<uint32_t> begun{0};
  TestPhases phases({pool.threads()}, [&](uint32_t, TileRange range) {
    body();
    begun.fetch_add(range.size());
    while (begun.load() != pool.threads())
      sched_yield();
  });
  pool.run(phases);
}

/// Returns when all threads of the pool but the caller sleep.
void awaitSleep(ThreadPool &pool) {
  std::mutex mutex;
  std::vector<pid_t> workers;
  onEveryThread(pool, [&] {
    const std::lock_guard lock(mutex);
    if (gettid() != getpid())
      workers.push_back(gettid());
  });
  for (pid_t worker : workers)
    for (std::string state; state != "S"; sched_yield()) {
      std::ifstream stat("/proc/self/task/" + std::to_string(worker) + "/stat");
      std::string id, name;
      ASSERT_TRUE(stat >> id >> name >> state);
    }
}

class ThreadPoolTest : public ::testing::TestWithParam<unsigned> {};

TEST_P(ThreadPoolTest, EveryTileOfEveryPhaseRunsOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  std::vector<uint32_t> tiles;
  for (uint32_t phase = 0; phase < 60; ++phase)
    tiles.push_back(phase * 7 % 23); // 0 and 1 among them
  std::vector<std::vector<std::atomic<uint32_t>>> counts;
  for (uint32_t count : tiles)
    counts.emplace_back(count);
  TestPhases phases(tiles, [&](uint32_t phase, TileRange range) {
    for (uint32_t tile = range.begin; tile < range.end; ++tile)
      counts[phase].at(tile).fetch_add(1, std::memory_order_relaxed);
  });
  for (uint32_t run = 1; run <= 200; ++run) {
    pool.run(phases);
    for (size_t phase = 0; phase < tiles.size(); ++phase)
      for (const std::atomic<uint32_t> &count : counts[phase])
        ASSERT_EQ(count.load(std::memory_order_relaxed), run) << "phase " << phase;
  }
}

TEST_P(ThreadPoolTest, APhaseSeesWhatThePhaseBeforeItWrote) {
  // Without atomics: a race for the sanitizers to see.
  constexpr uint32_t kCells = 64, kSums = 9;
  uint64_t cells[kCells] = {}, sums[kSums] = {}, total = 0;
  TestPhases phases({kCells, kSums, 1}, [&](uint32_t phase, TileRange range) {
    for (uint32_t tile = range.begin; tile < range.end; ++tile) {
      if (phase == 0)
        cells[tile] += tile + 1;
      else if (phase == 1)
        sums[tile] = std::accumulate(std::begin(cells), std::end(cells), uint64_t(0));
      else
        total = std::accumulate(std::begin(sums), std::end(sums), uint64_t(0));
    }
  });
  ThreadPool pool(GetParam());
  for (uint64_t run = 1; run <= 2000; ++run) {
    pool.run(phases);
    ASSERT_EQ(total, run * kSums * kCells * (kCells + 1) / 2) << run;
  }
}

TEST_P(ThreadPoolTest, ManyShortRunsFollowEachOther) {
  ThreadPool pool(GetParam());
  uint64_t counts[2] = {};
  TestPhases phases({2}, [&](uint32_t, TileRange range) {
    for (uint32_t tile = range.begin; tile < range.end; ++tile)
      ++counts[tile];
  });
  for (uint64_t run = 1; run <= 20000; ++run) {
    pool.run(phases);
    ASSERT_EQ(counts[0], run);
    ASSERT_EQ(counts[1], run);
  }
}

TEST_P(ThreadPoolTest, AStuckThreadKeepsOnlyTheTilesItHasBegun) {
  ThreadPool pool(GetParam());
  constexpr uint32_t kTiles = 1000;
  std::atomic<uint32_t> done{0};
  TestPhases phases({kTiles}, [&](uint32_t, TileRange range) {
    // Whoever has the first tile is stuck until all other tiles but its own are done.
    if (range.begin == 0)
      while (done.load() != kTiles - range.size())
        sched_yield();
    done.fetch_add(range.size());
  });
  pool.run(phases);
  EXPECT_EQ(done.load(), kTiles);
}

TEST_P(ThreadPoolTest, AllThreadsTakePart) {
  ThreadPool pool(GetParam());
  for (int i = 0; i < 20; ++i) {
    std::atomic<uint32_t> threads{0};
    onEveryThread(pool, [&] { ++threads; });
    EXPECT_EQ(threads.load(), GetParam());
  }
}

TEST_P(ThreadPoolTest, ARunWakesThreadsThatSleep) {
  ThreadPool pool(GetParam());
  for (int i = 0; i < 5; ++i) {
    awaitSleep(pool);
    std::atomic<uint32_t> threads{0};
    onEveryThread(pool, [&] { ++threads; });
    EXPECT_EQ(threads.load(), GetParam());
  }
}

TEST_P(ThreadPoolTest, APoolMayEndWhileItsThreadsSleep) {
  ThreadPool pool(GetParam());
  awaitSleep(pool);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Range(1u, 9u));

TEST(ThreadPoolTest, APoolMayEndWithoutHavingWorked) {
  for (unsigned threads = 1; threads <= 8; ++threads)
    for (int i = 0; i < 20; ++i)
      ThreadPool pool(threads);
}

TEST(ThreadPoolTest, APoolMayEndRightBehindARun) {
  for (int i = 0; i < 200; ++i) {
    std::atomic<uint32_t> done{0};
    TestPhases phases({16}, [&](uint32_t, TileRange range) { done += range.size(); });
    {
      ThreadPool pool(4);
      pool.run(phases);
    }
    ASSERT_EQ(done.load(), 16u);
  }
}

TEST(ThreadPoolTest, PoolsAreIndependent) {
  ThreadPool first(3), second(2);
  std::atomic<uint32_t> a{0}, b{0};
  TestPhases ofFirst({10}, [&](uint32_t, TileRange range) { a += range.size(); });
  TestPhases ofSecond({5}, [&](uint32_t, TileRange range) { b += range.size(); });
  for (int i = 0; i < 1000; ++i) {
    first.run(ofFirst);
    second.run(ofSecond);
  }
  EXPECT_EQ(a.load(), 10000u);
  EXPECT_EQ(b.load(), 5000u);
}

TEST(ThreadPoolTest, NoPhasesAndPhasesWithoutTilesEndAtOnce) {
  ThreadPool pool(2);
  auto never = [](uint32_t, TileRange range) { EXPECT_TRUE(range.empty()); };
  TestPhases none({}, never), empty({0, 0}, never);
  pool.run(none);
  pool.run(empty);
}

TEST(ThreadPoolTest, EveryPinnedThreadHasACpuOfItsOwnAndTheCallerOnlyDuringARun) {
  const std::vector<int> cpus = cpusForPinning();
  cpu_set_t before, after;
  CPU_ZERO(&before);
  CPU_ZERO(&after);
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const auto threads = static_cast<unsigned>(std::min<size_t>(cpus.size(), 4));
  ThreadPool pool(threads);
  const Status pinned = pool.pinThreads();
  ASSERT_TRUE(pinned.ok()) << pinned.message();

  std::mutex mutex;
  std::vector<int> bound;
  int ofCaller = -1;
  onEveryThread(pool, [&] {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    EXPECT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
    EXPECT_EQ(CPU_COUNT(&mask), 1);
    const std::lock_guard lock(mutex);
    for (int cpu : cpus)
      if (CPU_ISSET(cpu, &mask)) {
        bound.push_back(cpu);
        if (gettid() == getpid())
          ofCaller = cpu;
      }
  });
  EXPECT_EQ(ofCaller, cpus[0]);
  std::sort(bound.begin(), bound.end());
  std::vector<int> expected(cpus.begin(), cpus.begin() + threads);
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(bound, expected);
  ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST(ThreadPoolTest, MoreThreadsThanCpusCannotBePinned) {
  const size_t cpus = cpusForPinning().size();
  ThreadPool pool(static_cast<unsigned>(cpus) + 1);
  const Status status = pool.pinThreads();
  EXPECT_EQ(status.code(), MOEPLAN_UNSUPPORTED);
  EXPECT_EQ(status.message(), "cannot pin " + std::to_string(cpus + 1) +
                                  " threads: the process may run on " + std::to_string(cpus) +
                                  " CPUs");
}

} // namespace
} // namespace moeplan::testing
