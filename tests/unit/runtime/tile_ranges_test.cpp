#include "runtime/device/tile_ranges.h"

#include <gtest/gtest.h>

#include <vector>

namespace moeplan::testing {
namespace {

/// Takes for `thread` until nothing is left.
std::vector<TileRange> takeAll(TileRanges &ranges, uint32_t thread) {
  std::vector<TileRange> taken;
  for (TileRange range = ranges.take(thread); !range.empty(); range = ranges.take(thread))
    taken.push_back(range);
  return taken;
}

TEST(TileRangesTest, NothingCanBeTakenBeforeTilesAreAssigned) {
  TileRanges ranges(3);
  for (uint32_t thread = 0; thread < 3; ++thread)
    EXPECT_TRUE(ranges.take(thread).empty());
}

TEST(TileRangesTest, EachTileIsGivenOutOnceInWhateverTurnThreadsTake) {
  for (uint32_t threads = 1; threads <= 5; ++threads) {
    TileRanges ranges(threads);
    for (uint32_t tiles : {0u, 1u, 2u, 3u, 4u, 5u, 17u, 100u, 1001u})
      for (uint32_t stride = 1; stride <= threads; ++stride) {
        ranges.assign(tiles);
        std::vector<int> given(tiles);
        uint32_t thread = 0, without = 0;
        while (without < threads) {
          const TileRange range = ranges.take(thread);
          without = range.empty() ? without + 1 : 0;
          for (uint32_t tile = range.begin; tile < range.end; ++tile)
            ++given.at(tile);
          thread = (thread + stride) % threads;
        }
        EXPECT_EQ(given, std::vector<int>(tiles, 1)) << threads << " threads, " << tiles;
      }
  }
}

TEST(TileRangesTest, AThreadGoesThroughItsPartFromTheFrontInLargePieces) {
  TileRanges ranges(2);
  ranges.assign(200);
  uint32_t next = 100, pieces = 0;
  while (next < 200) {
    const TileRange range = ranges.take(1);
    ASSERT_EQ(range.begin, next);
    ASSERT_LE(range.end, 200u);
    next = range.end;
    ++pieces;
  }
  EXPECT_LE(pieces, 16u);
}

TEST(TileRangesTest, AThreadWithoutTilesTakesFromTheBackOfTheLongestPart) {
  TileRanges ranges(3);
  ranges.assign(90);
  while (ranges.take(0).end != 30) {
  }
  EXPECT_EQ(ranges.take(1), (TileRange{30, 38}));
  EXPECT_EQ(ranges.take(0), (TileRange{82, 90}));
  EXPECT_EQ(ranges.take(0), (TileRange{54, 60}));
  EXPECT_EQ(ranges.take(2), (TileRange{60, 66}));
}

TEST(TileRangesTest, OneThreadGetsAllWhereNoOtherComes) {
  TileRanges ranges(4);
  ranges.assign(1000);
  uint32_t sum = 0;
  for (const TileRange range : takeAll(ranges, 2))
    sum += range.size();
  EXPECT_EQ(sum, 1000u);
  for (uint32_t thread = 0; thread < 4; ++thread)
    EXPECT_TRUE(ranges.take(thread).empty());
}

TEST(TileRangesTest, PartsMayReachToTheLargestNumberOfTiles) {
  TileRanges ranges(2);
  ranges.assign(UINT32_MAX);
  uint64_t sum = 0;
  for (const TileRange range : takeAll(ranges, 1))
    sum += range.size();
  EXPECT_EQ(sum, UINT32_MAX);
}

} // namespace
} // namespace moeplan::testing
