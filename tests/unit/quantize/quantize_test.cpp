#include "tests/unit/quantize/quantize_test.h"

#include "compiler/quantize/convert.h"
#include "compiler/quantize/lanes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <xxhash.h>

namespace moeplan::testing {

using namespace compiler;

std::vector<float> weightLikeNumbers(uint64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(count);
  for (float &value : values) {
    float sum = 0; // nearly normal, in exact arithmetic
    for (int i = 0; i < 12; ++i)
      sum += float(int64_t(random() >> 44) - (1 << 19)) * 0x1p-25f;
    value = random() % 97 == 0 ? 4 * sum : sum;
  }
  return values;
}

std::vector<float> activationMoments(uint64_t columns, uint64_t block, uint64_t seed) {
  // x = size * (own + 1.7 * shared), so that the moments are those of a real random vector.
  std::mt19937_64 random(seed);
  std::vector<double> size(columns);
  for (double &s : size)
    s = 0.2 + double(random() % 1000) / 250;
  std::vector<float> moments;
  for (uint64_t begin = 0; begin < columns; begin += block)
    for (uint64_t i = begin; i < std::min(begin + block, columns); ++i)
      for (uint64_t j = begin; j <= i; ++j)
        moments.push_back(float(1000 * size[i] * size[j] * (3 + (i == j))));
  return moments;
}

std::string Quantization::run(std::string_view formatName, std::string_view quantizer,
                              const Calibration &calibration, unsigned threads) {
  format = findFormat(formatName);
  bytes.assign(*formatBytes(*format, rows, columns), 0xaa);
  llvm::DefaultThreadPool pool(llvm::hardware_concurrency(threads));
  return llvm::toString(
      quantizeTensor(view(), *format, *findQuantizer(quantizer), calibration, bytes, pool));
}

float Quantization::at(uint64_t row, uint64_t column) const {
  return format->packing->at({format->bits, format->groupSize, rows, columns}, bytes.data(), row,
                             column);
}

std::vector<uint8_t> Quantization::numbers() const {
  const WeightShape shape{format->bits, format->groupSize, rows, columns};
  const uint64_t codes = rows * columns, groups = rows * shape.groups();
  std::vector<uint8_t> numbers(codes + 2 * groups);
  format->packing->unpack(
      shape, bytes.data(),
      {numbers.data(), numbers.data() + codes, numbers.data() + codes + groups});
  return numbers;
}

double Quantization::error() const {
  double sum = 0;
  for (uint64_t r = 0; r < rows; ++r)
    for (uint64_t c = 0; c < columns; ++c)
      sum += std::pow(double(values[r * columns + c]) - double(at(r, c)), 2);
  return sum / double(rows * columns);
}

namespace {

constexpr const char *kQuantizerNames[] = {"rtn", "imatrix", "gptq", "descent", "hqq"};
constexpr const char *kOnePerWidth[] = {"int8g64", "int4g32", "int3g128", "int2g64"};

Calibration calibrationOf(uint64_t columns, uint64_t block, const float *moments) {
  llvm::DefaultThreadPool one(llvm::hardware_concurrency(1));
  return Calibration({uint32_t(columns), uint32_t(block), moments}, 10000, one);
}
Calibration fullCalibration(const std::vector<float> &moments, uint64_t columns) {
  return calibrationOf(columns, columns, moments.data());
}

TEST(QuantizeTest, EveryQuantizerComesCloseInEveryFormatAndShape) {
  // Root mean square error in units of the numbers' own, at most: twice the error of the best
  // quantiser of a normal variable with that many levels (Max 1960), for outliers and short groups.
  const std::map<uint32_t, double> limits{{8, 0.03}, {4, 0.22}, {3, 0.42}, {2, 0.75}};
  for (auto [rows, columns] : {std::pair(16, 128), {33, 129}, {1, 1}, {7, 40}, {20, 300}}) {
    Quantization weight(weightLikeNumbers(uint64_t(rows * columns), 3), uint64_t(rows),
                        uint64_t(columns));
    const std::vector<float> moments = activationMoments(weight.columns, weight.columns, 5);
    const Calibration calibration = fullCalibration(moments, weight.columns);
    double power = 0;
    for (float value : weight.values)
      power += double(value) * double(value) / double(weight.values.size());
    for (const FormatInfo &format : kFormats)
      for (const char *quantizer : kQuantizerNames) {
        if (!format.isPacked())
          continue;
        ASSERT_EQ(weight.run(format.name, quantizer, calibration), "");
        // A lone number is as good as its scale, which has 3 bits of mantissa.
        const double limit = std::max(limits.at(format.bits), columns == 1 ? 0.07 : 0.0);
        EXPECT_LE(std::sqrt(weight.error() / power), limit)
            << format.name << " " << quantizer << " " << rows << "x" << columns;
      }
  }
}

TEST(QuantizeTest, SearchIsNoWorseThanTheFullRange) {
  Quantization weight(weightLikeNumbers(64 * 256, 7), 64, 256);
  for (const char *format : kOnePerWidth) {
    ASSERT_EQ(weight.run(format, "rtn"), "");
    // Min-max rounding with exact scales: what a file of plain round-to-nearest holds.
    const double levels = double((1u << weight.format->bits) - 1);
    double plain = 0;
    for (uint64_t g = 0; g < weight.values.size(); g += weight.format->groupSize) {
      const auto begin = weight.values.begin() + ptrdiff_t(g);
      const auto [low, high] = std::minmax_element(begin, begin + weight.format->groupSize);
      const double step = double(*high - *low) / levels;
      for (auto w = begin; w != begin + weight.format->groupSize; ++w)
        plain += std::pow(std::remainder(double(*w - *low), step), 2);
    }
    // At 8 bits a scale of 3 bits mantissa may be 1/8 coarser, 27 % in the square.
    EXPECT_LE(weight.error(),
              plain / double(weight.values.size()) * (weight.format->bits == 8 ? 1.27 : 1.0))
        << format;
  }
}

TEST(QuantizeTest, EachStepLowersTheErrorItIsMadeFor) {
  constexpr uint64_t kRows = 64, kColumns = 256;
  Quantization weight(weightLikeNumbers(kRows * kColumns, 11), kRows, kColumns);
  const std::vector<float> moments = activationMoments(kColumns, kColumns, 13);
  const Calibration full = fullCalibration(moments, kColumns);
  llvm::DefaultThreadPool pool(llvm::hardware_concurrency(1));
  for (const char *name : {"int4g32", "int3g32", "int2g64"}) {
    auto outputError = [&](const char *quantizer) {
      return llvm::cantFail(quantizationError(weight.view(), *findFormat(name),
                                              *findQuantizer(quantizer), full, {}, 0, pool));
    };
    const double rtn = outputError("rtn"), imatrix = outputError("imatrix"),
                 gptq = outputError("gptq"), descent = outputError("descent");
    EXPECT_LT(imatrix, rtn) << name;
    EXPECT_LT(gptq, 0.95 * imatrix) << name;
    EXPECT_LE(descent, gptq) << name;
  }
}

TEST(QuantizeTest, BlocksOfMomentsAreEachTheirOwnHessian) {
  // Two blocks of 128 give the same numbers as two weights of 128 columns.
  constexpr uint64_t kRows = 32;
  Quantization whole(weightLikeNumbers(kRows * 256, 17), kRows, 256);
  const std::vector<float> moments = activationMoments(256, 128, 19);
  ASSERT_EQ(whole.run("int3g32", "descent", calibrationOf(256, 128, moments.data())), "");
  for (uint64_t half : {0, 1}) {
    std::vector<float> values;
    for (uint64_t r = 0; r < kRows; ++r)
      for (uint64_t c = 0; c < 128; ++c)
        values.push_back(whole.values[r * 256 + half * 128 + c]);
    Quantization part(values, kRows, 128);
    const uint64_t count = momentCount(128, 128);
    ASSERT_EQ(
        part.run("int3g32", "descent", calibrationOf(128, 128, moments.data() + half * count)), "");
    for (uint64_t r = 0; r < kRows; ++r)
      for (uint64_t c = 0; c < 128; ++c)
        ASSERT_EQ(part.at(r, c), whole.at(r, half * 128 + c)) << half << " " << r << " " << c;
  }
}

TEST(QuantizeTest, ZerosStayZero) {
  std::vector<float> values = weightLikeNumbers(32 * 128, 23);
  std::fill(values.begin(), values.begin() + 64, 0.0f);                // two groups of row 0
  std::fill(values.begin() + 5 * 128, values.begin() + 6 * 128, 0.0f); // all of row 5
  Quantization weight(values, 32, 128);
  const std::vector<float> moments = activationMoments(128, 128, 29);
  const Calibration calibration = fullCalibration(moments, 128);
  for (const char *format : {"int8g32", "int4g32", "int3g32", "int2g32"})
    for (const char *quantizer : kQuantizerNames) {
      ASSERT_EQ(weight.run(format, quantizer, calibration), "");
      for (uint64_t c = 0; c < 128; ++c) {
        EXPECT_EQ(weight.at(5, c), 0.0f) << format << " " << quantizer;
        // Error feedback may use a group of zeros to make up for other columns.
        if (c < 64 && !findQuantizer(quantizer)->usesHessian) {
          EXPECT_EQ(weight.at(0, c), 0.0f) << format << " " << quantizer;
        }
      }
    }
}

TEST(QuantizeTest, ExtremeGroupsGiveFiniteNumbers) {
  std::vector<float> values(16 * 64, 0.0f);
  for (uint64_t c = 0; c < 64; ++c) {
    values[0 * 64 + c] = 0.37f;                       // constant, not zero
    values[1 * 64 + c] = c == 5 ? 100.0f : 1e-3f;     // one outlier
    values[2 * 64 + c] = 1e-41f * float(c);           // subnormal
    values[3 * 64 + c] = (c % 2 ? 3e38f : -3e38f);    // the ends of float32
    values[4 * 64 + c] = 1.0f + 1e-3f * float(c % 7); // far from zero
  }
  Quantization weight(values, 16, 64);
  const std::vector<float> moments(momentCount(64, 64), 0.0f); // nothing ever reached it
  const Calibration calibration = fullCalibration(moments, 64);
  for (const FormatInfo &format : kFormats)
    for (const char *quantizer : kQuantizerNames) {
      if (!format.isPacked())
        continue;
      ASSERT_EQ(weight.run(format.name, quantizer, calibration), "");
      for (uint64_t r = 0; r < 16; ++r)
        for (uint64_t c = 0; c < 64; ++c)
          ASSERT_TRUE(std::isfinite(weight.at(r, c))) << format.name << " " << quantizer;
      EXPECT_NEAR(weight.at(0, 9), 0.37f, 0.37f * 0.07f) << format.name << " " << quantizer;
    }
}

TEST(QuantizeTest, NumbersThatAreNoneAreNamed) {
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (auto [row, column] : {std::pair(0, 0), {33, 129}, {20, 64}}) {
      Quantization weight(weightLikeNumbers(34 * 130, 31), 34, 130);
      weight.values[size_t(row * 130 + column)] = bad;
      weight.values[33 * 130 + 129] = bad; // a later one is not what is reported
      const std::string message = weight.run("int4g64", "rtn", {}, 2);
      EXPECT_TRUE(message.starts_with("weight: row " + std::to_string(row) + ", column " +
                                      std::to_string(column) + " is NaN or infinite"))
          << message;
    }
}

TEST(QuantizeTest, AnyNumberOfThreadsGivesTheSameBytes) {
  Quantization weight(weightLikeNumbers(200 * 160, 37), 200, 160);
  const std::vector<float> moments = activationMoments(160, 160, 41);
  const Calibration calibration = fullCalibration(moments, 160);
  for (const char *quantizer : kQuantizerNames) {
    ASSERT_EQ(weight.run("int3g64", quantizer, calibration, 1), "");
    const std::vector<uint8_t> one = weight.bytes;
    for (unsigned threads : {2, 3}) {
      ASSERT_EQ(weight.run("int3g64", quantizer, calibration, threads), "");
      EXPECT_EQ(weight.bytes, one) << quantizer << ", " << threads << " threads";
    }
  }
}

TEST(QuantizeTest, PackedBytesAreThoseOfTheScalarLayout) {
  Quantization weight(weightLikeNumbers(35 * 161, 43), 35, 161);
  for (const FormatInfo &format : kFormats) {
    if (!format.isPacked())
      continue;
    ASSERT_EQ(weight.run(format.name, "rtn"), "");
    const WeightShape shape{format.bits, format.groupSize, 35, 161};
    std::vector<uint8_t> codes(35 * 161), scales(35 * shape.groups()), zeros(scales.size());
    const QuantizedView view{codes.data(), scales.data(), zeros.data()};
    format.packing->unpack(shape, weight.bytes.data(), view);
    std::vector<uint8_t> again(weight.bytes.size());
    format.packing->pack(shape, view, again.data());
    EXPECT_EQ(weight.bytes, again) << format.name; // padding, which is zero, included
  }
}

TEST(QuantizeTest, TheSameNumbersInAnyTypeGiveTheSameBytes) {
  std::vector<float> values = weightLikeNumbers(16 * 96, 47);
  std::vector<uint8_t> bf16(values.size() * 2), f16(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    // 8 significant bits and a moderate exponent: exact in all three types.
    uint32_t bits;
    std::memcpy(&bits, &values[i], 4);
    bits &= 0xffff0000;
    std::memcpy(&values[i], &bits, 4);
    if (std::abs(values[i]) < 0x1p-14f)
      values[i] = 0, bits = 0;
    const uint16_t upper = uint16_t(bits >> 16);
    std::memcpy(bf16.data() + 2 * i, &upper, 2);
    const uint32_t exponent = bits >> 23 & 0xff;
    const uint16_t half =
        bits ? uint16_t((bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 0x3ff)) : 0;
    std::memcpy(f16.data() + 2 * i, &half, 2);
  }
  Quantization weight(values, 16, 96);
  ASSERT_EQ(weight.run("int4g32", "rtn"), "");
  llvm::DefaultThreadPool pool(llvm::hardware_concurrency(1));
  for (auto [dtype, data] : {std::pair(DType::BF16, &bf16), {DType::F16, &f16}}) {
    std::vector<uint8_t> bytes(weight.bytes.size());
    ASSERT_FALSE(quantizeTensor({"w", dtype, data->data(), 16, 96}, *weight.format,
                                *findQuantizer("rtn"), {}, bytes, pool));
    EXPECT_EQ(bytes, weight.bytes) << int(dtype);
  }
}

TEST(QuantizeTest, NumbersAreTheSameOnEveryMachine) {
  // Made once on a CPU with AVX-512; narrower vectors must give the same.
  Quantization weight(weightLikeNumbers(48 * 200, 53), 48, 200);
  const std::vector<float> moments = activationMoments(200, 200, 59);
  const std::map<std::string, uint64_t> expected{{"rtn", 16767269586331837676ULL},
                                                 {"imatrix", 8806242361527585836ULL},
                                                 {"gptq", 11186493836040751036ULL},
                                                 {"descent", 25887808697901794ULL},
                                                 {"hqq", 12949826424925535888ULL}};
  for (const unsigned lanes : {16u, 8u, 4u}) { // as many as the CPU has, at most
    limitLanes(lanes);
    const Calibration calibration = fullCalibration(moments, 200);
    std::map<std::string, uint64_t> hashes;
    for (const char *quantizer : kQuantizerNames) {
      ASSERT_EQ(weight.run("int3g32", quantizer, calibration), "");
      const std::vector<uint8_t> numbers = weight.numbers();
      hashes[quantizer] = XXH3_64bits(numbers.data(), numbers.size());
    }
    EXPECT_EQ(hashes, expected) << lanes;
  }
  limitLanes(kLanes);
}

TEST(QuantizeTest, AQuantizerWithoutWhatItNeedsIsRefused) {
  Quantization weight(weightLikeNumbers(16 * 64, 5), 16, 64);
  const std::vector<float> moments = activationMoments(64, 1, 7);
  const Calibration diagonal = calibrationOf(64, 1, moments.data());
  EXPECT_EQ(weight.run("int4g32", "imatrix"),
            "weight: quantiser 'imatrix' needs calibration that there is not");
  EXPECT_EQ(weight.run("int4g32", "descent", diagonal),
            "weight: quantiser 'descent' needs calibration that there is not");
  EXPECT_EQ(weight.run("int4g32", "imatrix", diagonal), "");
}

TEST(QuantizeTest, TheDefaultDependsOnBitsAndOnWhatIsKnown) {
  EXPECT_EQ(defaultQuantizer(8, true, true).name, "rtn");
  EXPECT_EQ(defaultQuantizer(4, true, true).name, "descent");
  EXPECT_EQ(defaultQuantizer(2, true, false).name, "imatrix");
  EXPECT_EQ(defaultQuantizer(3, false, false).name, "rtn");
  EXPECT_EQ(findQuantizer("awq"), nullptr);
}

TEST(QuantizationErrorTest, IsTheQuadraticFormOfTheHessian) {
  constexpr uint64_t kRows = 35, kColumns = 64;
  Quantization weight(weightLikeNumbers(kRows * kColumns, 61), kRows, kColumns);
  const std::vector<float> moments = activationMoments(kColumns, kColumns, 67);
  const Calibration calibration = fullCalibration(moments, kColumns);
  ASSERT_EQ(weight.run("int2g32", "gptq", calibration), "");
  std::vector<float> gains(kRows);
  for (uint64_t r = 0; r < kRows; ++r)
    gains[r] = float(r % 5);
  const HessianBlock &hessian = calibration.input().hessian->blocks().front();
  double expected = 0;
  for (uint64_t r = 0; r < kRows; ++r)
    for (uint64_t i = 0; i < kColumns; ++i)
      for (uint64_t j = 0; j < kColumns; ++j)
        expected += double(gains[r]) * double(weight.values[r * kColumns + i] - weight.at(r, i)) *
                    double(hessian.matrix[i * kColumns + j]) *
                    double(weight.values[r * kColumns + j] - weight.at(r, j));
  llvm::DefaultThreadPool pool(llvm::hardware_concurrency(2));
  const double actual = llvm::cantFail(quantizationError(
      weight.view(), *weight.format, *findQuantizer("gptq"), calibration, gains, 0, pool));
  EXPECT_NEAR(actual, expected, 1e-4 * expected);
}

} // namespace
} // namespace moeplan::testing
