// Generated weights: the numbers that they decode to, and what their bytes depend on.
#include "runtime/artifact/synthetic_generator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace moeplan::testing {
namespace {

SyntheticWeight matrix(const FormatInfo &format, uint64_t rows, uint64_t columns,
                       std::string_view name = "layers.3.experts.5.w1") {
  return {name, &format, rows, columns, /*isVector=*/false};
}

uint64_t bytesOf(const SyntheticWeight &weight) {
  return *formatBytes(*weight.format, weight.rows, weight.columns);
}

std::vector<std::byte> generate(const SyntheticWeight &weight, uint64_t seed = 1) {
  SyntheticGenerator generator(seed);
  generator.prepare(weight);
  std::vector<std::byte> bytes(bytesOf(weight));
  generator.fill(weight, 0, bytes);
  return bytes;
}

/// The values by the layout's scalar code, row by row.
std::vector<double> decode(const SyntheticWeight &weight, const std::vector<std::byte> &bytes) {
  const WeightShape shape{weight.format->bits, weight.format->groupSize, weight.rows,
                          weight.columns};
  const auto *data = reinterpret_cast<const uint8_t *>(bytes.data());
  std::vector<double> values;
  for (uint64_t row = 0; row < weight.rows; ++row)
    for (uint64_t column = 0; column < weight.columns; ++column)
      values.push_back(weight.format->packing->at(shape, data, row, column));
  return values;
}

struct Moments {
  double mean = 0, deviation = 0, kurtosis = 0;
};

Moments momentsOf(const std::vector<double> &values) {
  const auto count = static_cast<double>(values.size());
  double sum = 0, squares = 0, fourths = 0;
  for (double value : values)
    sum += value;
  const double mean = sum / count;
  for (double value : values) {
    const double square = (value - mean) * (value - mean);
    squares += square;
    fourths += square * square;
  }
  return {mean, std::sqrt(squares / count), fourths * count / (squares * squares)};
}

TEST(SyntheticGeneratorTest, MatricesAreBellShapedWithTheVarianceThatKeepsActivationsInRange) {
  for (const FormatInfo &format : kFormats)
    for (auto [rows, columns] : {std::pair(512, 1024), {100, 3000}}) {
      const SyntheticWeight weight = matrix(format, uint64_t(rows), uint64_t(columns));
      const Moments moments = momentsOf(decode(weight, generate(weight)));
      const double expected = 1 / std::sqrt(double(columns));
      EXPECT_NEAR(moments.mean / expected, 0, 0.02) << format.name << " " << columns;
      EXPECT_NEAR(moments.deviation / expected, 1, 0.02) << format.name << " " << columns;
      // 3 for a normal distribution, 1.8 for a uniform one.
      EXPECT_NEAR(moments.kurtosis, 3, 0.35) << format.name << " " << columns;
    }
}

TEST(SyntheticGeneratorTest, RowsAndColumnsAreAsLargeAsEachOther) {
  const SyntheticWeight weight = matrix(*findFormat("int4g64"), 64, 4096);
  const std::vector<double> values = decode(weight, generate(weight));
  for (uint64_t row = 0; row < weight.rows; ++row) {
    const Moments moments =
        momentsOf({values.begin() + row * 4096, values.begin() + (row + 1) * 4096});
    EXPECT_NEAR(moments.deviation * 64, 1, 0.1) << row;
    EXPECT_NEAR(moments.mean * 64, 0, 0.1) << row;
  }
}

TEST(SyntheticGeneratorTest, NormsAreAroundOne) {
  for (const char *name : {"f32", "bf16"}) {
    const SyntheticWeight weight{"norm", findFormat(name), 1, 4096, /*isVector=*/true};
    const Moments moments = momentsOf(decode(weight, generate(weight)));
    EXPECT_NEAR(moments.mean, 1, 0.01);
    EXPECT_NEAR(moments.deviation, 0.1, 0.01);
  }
}

TEST(SyntheticGeneratorTest, PackedWeightsUseAllCodesAndManyScalesAndZeros) {
  for (const FormatInfo &format : kFormats) {
    if (!format.isPacked())
      continue;
    const SyntheticWeight weight = matrix(format, 64, 1024);
    const WeightShape shape{format.bits, format.groupSize, weight.rows, weight.columns};
    std::vector<uint8_t> codes(shape.rows * shape.columns), scales(shape.rows * shape.groups()),
        zeros(scales.size());
    const std::vector<std::byte> bytes = generate(weight);
    format.packing->unpack(shape, reinterpret_cast<const uint8_t *>(bytes.data()),
                           {codes.data(), scales.data(), zeros.data()});
    auto different = [](const std::vector<uint8_t> &values) {
      return std::set<uint8_t>(values.begin(), values.end()).size();
    };
    EXPECT_EQ(different(codes), size_t(1) << format.bits) << format.name;
    EXPECT_GE(different(scales), 5u) << format.name;
    EXPECT_GE(different(zeros), 10u) << format.name;
  }
}

TEST(SyntheticGeneratorTest, BytesDoNotDependOnHowTheWeightIsCutIntoParts) {
  for (const char *name : {"f32", "bf16", "int8g32", "int4g64", "int3g128", "int2g32"})
    for (auto [rows, columns] : {std::pair(1, 1), {20, 100}, {33, 2500}, {300, 1024}}) {
      const SyntheticWeight weight = matrix(*findFormat(name), uint64_t(rows), uint64_t(columns));
      const std::vector<std::byte> whole = generate(weight);
      SyntheticGenerator generator(1);
      generator.prepare(weight);
      std::vector<std::byte> parts(whole.size());
      for (uint64_t begin = 0, length = 1; begin < parts.size(); begin += length) {
        length = std::min(length * 3 + 1, parts.size() - begin);
        generator.fill(weight, begin, std::span(parts).subspan(begin, length));
      }
      EXPECT_EQ(parts, whole) << name << " " << rows << "x" << columns;
    }
}

TEST(SyntheticGeneratorTest, BytesFollowFromSeedNameAndShape) {
  const FormatInfo &format = *findFormat("int4g64");
  const std::vector<std::byte> bytes = generate(matrix(format, 64, 512));
  EXPECT_EQ(generate(matrix(format, 64, 512)), bytes);
  EXPECT_NE(generate(matrix(format, 64, 512), /*seed=*/2), bytes);
  EXPECT_NE(generate(matrix(format, 64, 512, "layers.3.experts.5.w3")), bytes);
  std::vector<std::byte> larger = generate(matrix(format, 80, 512));
  larger.resize(bytes.size());
  EXPECT_NE(larger, bytes);

  // Whatever was prepared before.
  SyntheticGenerator generator(1);
  generator.prepare(matrix(*findFormat("bf16"), 5, 5));
  generator.prepare(matrix(format, 64, 1024));
  generator.prepare(matrix(format, 64, 512));
  std::vector<std::byte> again(bytes.size());
  generator.fill(matrix(format, 64, 512), 0, again);
  EXPECT_EQ(again, bytes);
}

TEST(SyntheticGeneratorTest, NoTwoRowsAreAlike) {
  const SyntheticWeight weight = matrix(*findFormat("bf16"), 64, 4096);
  const std::vector<std::byte> bytes = generate(weight);
  std::set<std::vector<std::byte>> rows;
  for (uint64_t row = 0; row < 64; ++row)
    rows.insert({bytes.begin() + row * 8192, bytes.begin() + (row + 1) * 8192});
  EXPECT_EQ(rows.size(), 64u);
}

} // namespace
} // namespace moeplan::testing
