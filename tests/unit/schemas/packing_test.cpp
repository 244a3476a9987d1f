// The layouts of weights: what packing.h says they are.
#include "formats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace moeplan {
namespace {

struct Numbers {
  Numbers(const FormatInfo &format, uint64_t rows, uint64_t columns)
      : shape{format.bits, format.groupSize, rows, columns}, codes(rows * columns),
        scales(rows * shape.groups()), zeros(scales.size()) {}
  QuantizedView view() { return {codes.data(), scales.data(), zeros.data()}; }

  WeightShape shape;
  std::vector<uint8_t> codes, scales, zeros;
};

Numbers randomNumbers(const FormatInfo &format, uint64_t rows, uint64_t columns) {
  Numbers n(format, rows, columns);
  std::mt19937 random(rows * 1000 + columns);
  for (uint8_t &code : n.codes)
    code = uint8_t(random() % (1u << format.bits));
  for (auto *bytes : {&n.scales, &n.zeros})
    for (uint8_t &byte : *bytes)
      byte = uint8_t(random());
  return n;
}

const FormatInfo &named(std::string_view name) { return *findFormat(name); }

TEST(PackingTest, UnpackingGivesWhatWasPacked) {
  for (const FormatInfo &format : kFormats) {
    if (!format.isPacked())
      continue;
    for (auto [rows, columns] : {std::pair(1, 1), {16, 32}, {17, 33}, {5, 128}, {40, 300}}) {
      Numbers n = randomNumbers(format, uint64_t(rows), uint64_t(columns));
      std::vector<uint8_t> bytes(*formatBytes(format, n.shape.rows, n.shape.columns));
      format.packing->pack(n.shape, n.view(), bytes.data());
      Numbers again(format, n.shape.rows, n.shape.columns);
      format.packing->unpack(n.shape, bytes.data(), again.view());
      EXPECT_EQ(again.codes, n.codes) << format.name;
      EXPECT_EQ(again.scales, n.scales) << format.name;
      EXPECT_EQ(again.zeros, n.zeros) << format.name;
    }
  }
}

TEST(PackingTest, AnElementIsScaleTimesCodeMinusZeroExactly) {
  for (const FormatInfo &format : kFormats) {
    if (!format.isPacked())
      continue;
    Numbers n = randomNumbers(format, 20, 200);
    std::vector<uint8_t> bytes(*formatBytes(format, 20, 200));
    format.packing->pack(n.shape, n.view(), bytes.data());
    for (uint64_t row = 0; row < 20; ++row)
      for (uint64_t column = 0; column < 200; ++column) {
        const uint64_t group = row * n.shape.groups() + column / format.groupSize;
        const double scale =
            std::ldexp(1 + (n.scales[group] & 7) / 8.0, (n.scales[group] >> 3) - 24);
        const double zero = std::ldexp(double(n.zeros[group]), int(format.bits) - 8);
        EXPECT_EQ(double(format.packing->at(n.shape, bytes.data(), row, column)),
                  scale * (n.codes[row * 200 + column] - zero))
            << format.name << " " << row << " " << column;
      }
  }
}

/// The bits of the packed weight [33, 70] that a lone code of `code` at (row, column) sets.
std::vector<uint64_t> bitsOf(std::string_view name, uint64_t row, uint64_t column, uint8_t code) {
  const FormatInfo &format = named(name);
  Numbers n(format, 33, 70);
  n.codes[row * 70 + column] = code;
  std::vector<uint8_t> bytes(*formatBytes(format, 33, 70));
  format.packing->pack(n.shape, n.view(), bytes.data());
  std::vector<uint64_t> bits;
  for (uint64_t i = 0; i < bytes.size() * 8; ++i)
    if (bytes[i / 8] >> (i % 8) & 1)
      bits.push_back(i);
  return bits;
}

TEST(PackingTest, CodesLieWhereTheAbiSays) {
  // Three blocks a tile, in one to three groups. Row 18, column 41: tile 1, row 2 in it, block 1,
  // column 9: quad 2, byte 1.
  auto bit = [](uint64_t tileBytes, uint64_t blockOffset, uint64_t word, uint64_t byteShift) {
    return (tileBytes + blockOffset) * 8 + (word * 16 + 2) * 32 + 8 * 1 + byteShift;
  };
  constexpr uint64_t kInt8 = 3 * 8 * 64 + 3 * 32, kInt4 = 3 * 4 * 64 + 2 * 32,
                     kInt2 = 3 * 2 * 64 + 3 * 32, kInt3 = 3 * 3 * 64 + 1 * 32;
  using Bits = std::vector<uint64_t>;
  EXPECT_EQ(bitsOf("int8g32", 18, 41, 128), Bits{bit(kInt8, 8 * 64 + 32, 2, 7)});
  EXPECT_EQ(bitsOf("int4g64", 18, 41, 8), Bits{bit(kInt4, 4 * 64, 1, 3)});
  EXPECT_EQ(bitsOf("int2g32", 18, 41, 1), Bits{bit(kInt2, 2 * 64 + 32, 0, 4)});
  EXPECT_EQ(bitsOf("int3g128", 18, 41, 5),
            (Bits{bit(kInt3, 3 * 64, 0, 4), bit(kInt3, 3 * 64, 2, 2)}));
  // Column 69, in block 2: behind the scales of all groups before its own. Quad 1.
  EXPECT_EQ(bitsOf("int8g32", 18, 69, 128), Bits{bit(kInt8, 2 * (8 * 64 + 32), 1, 7)});
  EXPECT_EQ(bitsOf("int4g64", 18, 69, 8), Bits{bit(kInt4, 2 * 4 * 64 + 32, 0, 7)});
}

TEST(PackingTest, ScalesFollowTheCodesOfTheirGroup) {
  const FormatInfo &format = named("int4g32");
  Numbers n(format, 33, 70);
  n.scales[18 * 3 + 1] = 0xdd; // row 18: the second group, and the short last one
  n.zeros[18 * 3 + 1] = 0xcc;
  n.scales[18 * 3 + 2] = 0xff;
  n.zeros[18 * 3 + 2] = 0xee;
  std::vector<uint8_t> bytes(*formatBytes(format, 33, 70));
  format.packing->pack(n.shape, n.view(), bytes.data());
  constexpr uint64_t kBlock = 4 * 64, kGroup = 32, kTile = 3 * kBlock + 3 * kGroup;
  const uint64_t second = kTile + 2 * kBlock + kGroup, last = second + kGroup + kBlock;
  EXPECT_EQ(bytes.size(), 3 * kTile);
  EXPECT_EQ(bytes[second + 2], 0xdd);
  EXPECT_EQ(bytes[second + 16 + 2], 0xcc);
  EXPECT_EQ(bytes[last + 2], 0xff);
  EXPECT_EQ(bytes[last + 16 + 2], 0xee);
}

/// Bytes of the bf16 weight [rows, columns] whose element (row, column) is row * 256 + column + 1.
std::vector<uint8_t> numberedPairs(uint64_t rows, uint64_t columns) {
  std::vector<uint16_t> elements(rows * columns);
  for (uint64_t i = 0; i < elements.size(); ++i)
    elements[i] = uint16_t(i / columns * 256 + i % columns + 1);
  std::vector<uint8_t> bytes(*formatBytes(named("bf16"), rows, columns), 0xff);
  named("bf16").packing->pack({16, 0, rows, columns},
                              {reinterpret_cast<uint8_t *>(elements.data()), nullptr, nullptr},
                              bytes.data());
  return bytes;
}

TEST(PackingTest, PairsOfColumnsLieWhereTheAbiSays) {
  const std::vector<uint8_t> bytes = numberedPairs(33, 7);
  auto at = [&](uint64_t element) {
    return uint16_t(bytes[element * 2] | bytes[element * 2 + 1] << 8);
  };
  // 7 columns are 4 pairs. Row 18, column 5: tile 1, row 2 in it, pair 2, its second column.
  EXPECT_EQ(bytes.size(), 3u * 4 * 16 * 4);
  EXPECT_EQ(at(((1 * 4 + 2) * 16 + 2) * 2 + 1), 18 * 256 + 5 + 1);
  for (uint64_t row = 0; row < 48; ++row)
    for (uint64_t column = 0; column < 8; ++column)
      EXPECT_EQ(at(MOEPLAN_PAIR_INDEX(row, column, 7)),
                row < 33 && column < 7 ? row * 256 + column + 1 : 0)
          << row << " " << column;
}

TEST(PackingTest, PairsUnpackToWhatWasPacked) {
  for (auto [rows, columns] :
       {std::pair<uint64_t, uint64_t>{1, 1}, {16, 4}, {17, 5}, {5, 6}, {40, 200}}) {
    const std::vector<uint8_t> bytes = numberedPairs(rows, columns);
    const WeightShape shape{16, 0, rows, columns};
    std::vector<uint16_t> elements(rows * columns);
    named("bf16").packing->unpack(shape, bytes.data(),
                                  {reinterpret_cast<uint8_t *>(elements.data()), nullptr, nullptr});
    for (uint64_t row = 0; row < rows; ++row)
      for (uint64_t column = 0; column < columns; ++column) {
        const auto expected = uint16_t(row * 256 + column + 1);
        EXPECT_EQ(elements[row * columns + column], expected) << row << " " << column;
        EXPECT_EQ(
            std::bit_cast<uint32_t>(named("bf16").packing->at(shape, bytes.data(), row, column)),
            uint32_t(expected) << 16)
            << row << " " << column;
      }
  }
}

TEST(PackingTest, SizesCountScalesAndPadding) {
  auto bits = [](std::string_view name, uint64_t rows, uint64_t columns) {
    return 8.0 * double(*formatBytes(named(name), rows, columns)) / double(rows * columns);
  };
  EXPECT_EQ(bits("f32", 3, 5), 32);
  EXPECT_EQ(bits("bf16", 32, 20), 16);
  EXPECT_EQ(*formatBytes(named("bf16"), 1, 1), 2u * 16 * 4);
  EXPECT_EQ(*formatBytes(named("bf16"), 17, 9), 2u * 32 * 12);
  EXPECT_EQ(bits("int8g64", 14336, 4096), 8.25);
  EXPECT_EQ(bits("int4g32", 4096, 14336), 4.5);
  EXPECT_EQ(bits("int3g128", 256, 128), 3.125);
  EXPECT_EQ(bits("int2g32", 128, 256), 2.5);
  EXPECT_EQ(*formatBytes(named("int2g32"), 1, 1), 2u * 64 + 32);
  EXPECT_EQ(*formatBytes(named("int2g64"), 17, 65), 2u * (3 * 2 * 64 + 2 * 32));
  EXPECT_EQ(formatRowBytes(named("bf16"), 7), 16u);
  EXPECT_EQ(formatRowBytes(named("int4g32"), 64), 36u);
}

TEST(PackingTest, ASizeBeyond64BitsIsNone) {
  for (const FormatInfo &format : kFormats) {
    EXPECT_FALSE(formatBytes(format, UINT64_MAX, UINT64_MAX)) << format.name;
    EXPECT_FALSE(formatBytes(format, UINT64_MAX / 2, 1u << 20)) << format.name;
    EXPECT_TRUE(formatBytes(format, 1u << 24, 1u << 24)) << format.name;
  }
}

TEST(PackingTest, NamesAndNumbersAreUnique) {
  for (const FormatInfo &format : kFormats) {
    EXPECT_EQ(findFormat(format.name), &format);
    EXPECT_EQ(findFormat(uint32_t(format.id)), &format);
  }
  EXPECT_EQ(findFormat("int5g32"), nullptr);
  EXPECT_EQ(findFormat(0u), nullptr);
  EXPECT_EQ(findFormat(99u), nullptr);
}

} // namespace
} // namespace moeplan
