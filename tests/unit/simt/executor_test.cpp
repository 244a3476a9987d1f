#include "tests/unit/simt/simt_test.h"

namespace moeplan::testing {
namespace {

TEST(SimtTest, ThreadsShareSharedMemoryBehindABarrier) {
  std::vector<int> out(4 * 64);
  const auto kernel = [&] {
    __shared__ int values[64];
    values[threadIdx.x] = int(blockIdx.x * 100 + threadIdx.x);
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = values[63 - threadIdx.x];
  };
  for (const simt::Order order : {simt::Order::Forward, simt::Order::Backward}) {
    ASSERT_EQ(simt::run({{4, 1, 1}, 64, order}, kernel), "");
    EXPECT_EQ(out[0], 63);
    EXPECT_EQ(out[64 + 63], 100);
  }
}

TEST(SimtTest, AMissingBarrierShowsInTheOrder) {
  const auto sumOf = [](simt::Order order) {
    int seen = 0;
    const std::string error = simt::run({{1, 1, 1}, 64, order}, [&] {
      __shared__ int value;
      if (threadIdx.x == 0)
        value = 7;
      if (threadIdx.x == 63)
        seen = value;
      __syncthreads();
      value = 0;
    });
    EXPECT_EQ(error, "");
    return seen;
  };
  EXPECT_EQ(sumOf(simt::Order::Forward), 7);
  EXPECT_EQ(sumOf(simt::Order::Backward), 0);
}

TEST(SimtTest, LanesExchangeValues) {
  simt::run({{1, 1, 1}, 64}, [] {
    EXPECT_EQ(__shfl_xor_sync(~0u, int(threadIdx.x), 5), int(threadIdx.x ^ 5));
    EXPECT_EQ(__ballot_sync(~0u, threadIdx.x % 3 == 0),
              threadIdx.x < 32 ? 0x49249249u : 0x92492492u);
  });
}

TEST(SimtTest, ProductsOfMatricesAreThoseOfTheInstruction) {
  // a[row][k] = row + 1 where k == row, b[k][n] = k + 16 n: d[row][n] = (row + 1) (row + 16 n).
  simt::run({{1, 1, 1}, 32}, [] {
    const int g = lane() / 4, t = lane() % 4;
    const auto a = [](int row, int k) { return row == k ? float(row + 1) : 0.0f; };
    const auto b = [](int k, int n) { return float(k + 16 * n); };
    const auto pairA = [&](int row, int k) { return toBf16Pair(a(row, k), a(row, k + 1)); };
    float d[4] = {1, 2, 3, 4};
    multiplyAdd(d, pairA(g, 2 * t), pairA(g + 8, 2 * t), pairA(g, 2 * t + 8),
                pairA(g + 8, 2 * t + 8), toBf16Pair(b(2 * t, g), b(2 * t + 1, g)),
                toBf16Pair(b(2 * t + 8, g), b(2 * t + 9, g)));
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i / 2), n = 2 * t + i % 2;
      EXPECT_EQ(d[i], float(i + 1 + (row + 1) * (row + 16 * n))) << row << ", " << n;
    }
  });
}

TEST(SimtTest, LanesThatDoNotMeetFailTheLaunch) {
  EXPECT_EQ(simt::run({{1, 1, 1}, 64},
                      [] {
                        if (threadIdx.x != 40)
                          __syncwarp();
                      }),
            "block (0, 0): 33 threads have ended, 0 wait for the block, 31 for their warp");
  EXPECT_EQ(simt::run({{1, 1, 1}, 32},
                      [] {
                        if (threadIdx.x < 16)
                          __syncwarp();
                        else
                          __ballot_sync(~0u, true);
                      }),
            "the lanes of warp 0 meet in different operations");
}

TEST(SimtTest, ABarrierThatSomeSkipFailsTheLaunch) {
  EXPECT_EQ(simt::run({{1, 1, 1}, 64},
                      [] {
                        if (threadIdx.x < 32)
                          __syncthreads();
                      }),
            "block (0, 0): 32 threads have ended, 32 wait for the block, 0 for their warp");
}

} // namespace
} // namespace moeplan::testing
