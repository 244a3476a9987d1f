// The sizes of KV caches: what kernel_abi.h and kernels/cpu/kv_cache.h say they are.
#include "kv_formats.h"

#include <gtest/gtest.h>

namespace moeplan {
namespace {

TEST(KvFormatsTest, NamesAndNumbersAreUnique) {
  for (const KvFormatInfo &format : kKvFormats) {
    EXPECT_EQ(findKvFormat(format.name), &format);
    EXPECT_EQ(findKvFormat(uint32_t(format.id)), &format);
  }
  EXPECT_EQ(findKvFormat("int4g32"), nullptr);
  EXPECT_EQ(findKvFormat(0u), nullptr);
  EXPECT_EQ(findKvFormat(4u), nullptr);
}

TEST(KvFormatsTest, PositionsComeInMultiplesOf32) {
  EXPECT_EQ(kvCapacity(1), 32u);
  EXPECT_EQ(kvCapacity(32), 32u);
  EXPECT_EQ(kvCapacity(33), 64u);
}

TEST(KvFormatsTest, ALayerIsItsPaddedRows) {
  // 100 positions are 128 of them.
  EXPECT_EQ(kvLayerBytes(MOEPLAN_KV_F32, 100, 3, 10), 3u * 128 * 40);
  EXPECT_EQ(kvLayerBytes(MOEPLAN_KV_BF16, 100, 3, 10), 3u * 128 * 16 * 2);
  EXPECT_EQ(kvLayerBytes(MOEPLAN_KV_INT8, 100, 3, 10), 3u * 128 * (12 + 4));
  EXPECT_EQ(kvLayerBytes(MOEPLAN_KV_BF16, 4096, 8, 128), 8u * 4096 * 256);
  EXPECT_EQ(kvLayerBytes(MOEPLAN_KV_INT8, 4096, 8, 128), 8u * 4096 * 132);
}

TEST(KvFormatsTest, ASizeBeyond64BitsIsNone) {
  for (const KvFormatInfo &format : kKvFormats) {
    EXPECT_FALSE(kvLayerBytes(format.id, uint64_t(1) << 62, 8, 128)) << format.name;
    EXPECT_TRUE(kvLayerBytes(format.id, uint64_t(1) << 30, 64, 1024)) << format.name;
  }
}

} // namespace
} // namespace moeplan
