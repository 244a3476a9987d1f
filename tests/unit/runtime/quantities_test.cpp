#include "runtime/support/quantities.h"

#include <gtest/gtest.h>

namespace moeplan::testing {
namespace {

TEST(QuantitiesTest, Bytes) {
  EXPECT_EQ(parseBytes("4096"), 4096u);
  EXPECT_EQ(parseBytes("24GiB"), uint64_t(24) << 30);
  EXPECT_EQ(parseBytes("36.13 GB"), 36'130'000'000u);
  EXPECT_EQ(parseBytes("0"), 0u);
  for (const char *text :
       {"", "GiB", "24 gib", "24  GiB", "-1", "1e30", "nan", "inf", "1GB/s", "1 GBx"})
    EXPECT_FALSE(parseBytes(text)) << text;
}

TEST(QuantitiesTest, BytesPerSecond) {
  EXPECT_EQ(parseBytesPerSecond("25GB/s"), 25e9);
  EXPECT_EQ(parseBytesPerSecond("1.5 GiB/s"), 1.5 * 1024 * 1024 * 1024);
  for (const char *text : {"", "/s", "25GB", "0GB/s", "25GB/ms"})
    EXPECT_FALSE(parseBytesPerSecond(text)) << text;
}

TEST(QuantitiesTest, Seconds) {
  EXPECT_NEAR(parseSeconds("10us").value_or(0), 10e-6, 1e-15);
  EXPECT_NEAR(parseSeconds("1.5 ms").value_or(0), 1.5e-3, 1e-12);
  EXPECT_EQ(parseSeconds("0s"), 0);
  for (const char *text : {"", "10", "10 m", "-1s"})
    EXPECT_FALSE(parseSeconds(text)) << text;
}

} // namespace
} // namespace moeplan::testing
