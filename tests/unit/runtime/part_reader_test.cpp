// Parts that threads read ahead.
#include "runtime/support/part_reader.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace moeplan::testing {
namespace {

TEST(PartReaderTest, EveryPartIsReadOnceAndNoneTooEarly) {
  for (const uint64_t parts : {0u, 1u, 2u, 7u, 200u})
    for (const uint64_t ahead : {1u, 3u, 500u})
      for (const unsigned threads : {0u, 1u, 4u}) {
        std::vector<std::atomic<int>> reads(parts);
        std::atomic<uint64_t> released{0};
        std::atomic<bool> early{false};
        PartReader reader(parts, ahead, threads, [&](uint64_t part) {
          if (part >= released + ahead)
            early = true;
          ++reads[part];
          return Status();
        });
        for (uint64_t part = 0; part < parts; ++part) {
          ASSERT_TRUE(reader.take(part).ok());
          ASSERT_EQ(reads[part], 1);
          ++released;
          reader.release(part);
        }
        EXPECT_FALSE(early);
      }
}

TEST(PartReaderTest, PartsAreReadWhileAnotherIsWaitedFor) {
  // Part 0 does not end before another has begun: by another thread.
  std::atomic<uint64_t> begun{0};
  PartReader reader(4, 4, 3, [&](uint64_t part) {
    ++begun;
    while (part == 0 && begun < 2)
      std::this_thread::yield();
    return Status();
  });
  for (uint64_t part = 0; part < 4; ++part) {
    ASSERT_TRUE(reader.take(part).ok());
    reader.release(part);
  }
}

TEST(PartReaderTest, AnErrorIsThatOfItsPart) {
  PartReader reader(50, 4, 3,
                    [&](uint64_t part) { return part == 20 ? ioError("part 20") : Status(); });
  for (uint64_t part = 0; part < 20; ++part) {
    ASSERT_TRUE(reader.take(part).ok());
    reader.release(part);
  }
  EXPECT_EQ(reader.take(20).message(), "part 20");
} // which waits for what is being read, and reads no more

} // namespace
} // namespace moeplan::testing
