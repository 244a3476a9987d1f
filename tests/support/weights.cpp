#include "tests/support/weights.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

namespace moeplan::testing {

namespace {

/// Zeroed memory whose end is the end of a page that no readable one follows.
std::shared_ptr<char> allocateBeforeGuard(size_t bytes) {
  const auto page = size_t(sysconf(_SC_PAGESIZE));
  const size_t usable = (bytes + page - 1) / page * page;
  void *begin = mmap(nullptr, usable + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED || mprotect(begin, usable, PROT_READ | PROT_WRITE) != 0)
    throw std::bad_alloc();
  return {static_cast<char *>(begin) + usable - bytes,
          [=](char *) { munmap(begin, usable + page); }};
}

/// Random numbers of a packed format: any code and zero, and scales from 2^-6 to 2^-3.
struct RandomCodes {
  RandomCodes(RandomNumbers &random, const WeightShape &shape)
      : codes(shape.rows * shape.columns), scales(shape.rows * shape.groups()),
        zeros(scales.size()) {
    for (uint8_t &code : codes)
      code = uint8_t(random.below(1u << shape.bits));
    for (uint8_t &scale : scales)
      scale = uint8_t(18 * 8 + random.below(3 * 8));
    for (uint8_t &zero : zeros)
      zero = uint8_t(random.below(256));
  }
  QuantizedView view() { return {codes.data(), scales.data(), zeros.data()}; }

  std::vector<uint8_t> codes, scales, zeros;
};

/// Puts random bits where a packed weight has padding: no kernel may use it.
void fillPadding(RandomNumbers &random, const FormatInfo &info, const WeightShape &shape,
                 uint8_t *data, size_t bytes) {
  // Padding is what stays zero where every number is all ones.
  RandomCodes ones(random, shape);
  std::fill(ones.codes.begin(), ones.codes.end(), uint8_t((1u << info.bits) - 1));
  std::fill(ones.scales.begin(), ones.scales.end(), uint8_t(255));
  std::fill(ones.zeros.begin(), ones.zeros.end(), uint8_t(255));
  std::vector<uint8_t> mask(bytes);
  info.packing->pack(shape, ones.view(), mask.data());
  for (size_t i = 0; i < bytes; ++i)
    data[i] = uint8_t(data[i] | (random.below(256) & ~mask[i]));
}

} // namespace

std::vector<float> RandomNumbers::floats(size_t count) {
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return next(); });
  return values;
}

Weights::Weights(RandomNumbers &random, int64_t rows, int64_t columns, moeplan_format format)
    : rows(rows), columns(columns), format(format) {
  const FormatInfo &info = *findFormat(uint32_t(format));
  const WeightShape shape{info.bits, info.groupSize, uint64_t(rows), uint64_t(columns)};
  const size_t size = *formatBytes(info, shape.rows, shape.columns);
  bytes = allocateBeforeGuard(size);
  auto *data = reinterpret_cast<uint8_t *>(bytes.get());
  if (info.isPacked()) {
    RandomCodes numbers(random, shape);
    info.packing->pack(shape, numbers.view(), data);
    fillPadding(random, info, shape, data, size);
    for (size_t i = 0; i < numbers.codes.size(); ++i) {
      const size_t group = i / shape.columns * shape.groups() + i % shape.columns / info.groupSize;
      scales.push_back(decodeScale(numbers.scales[group]));
      offsets.push_back(decodeScale(numbers.scales[group]) *
                        decodeZero(numbers.zeros[group], info.bits));
    }
  } else {
    // The upper half of a float32 is a bf16. Padding is zero, as the format says.
    const size_t width = info.bits / 8;
    std::vector<uint8_t> numbers(size_t(rows * columns) * width);
    for (size_t i = 0; i < numbers.size(); i += width) {
      const float value = random.next();
      std::memcpy(&numbers[i], reinterpret_cast<const char *>(&value) + 4 - width, width);
    }
    info.packing->pack(shape, {numbers.data(), nullptr, nullptr}, data);
  }
  for (uint64_t row = 0; row < shape.rows; ++row)
    for (uint64_t column = 0; column < shape.columns; ++column)
      elements.push_back(info.packing->at(shape, data, row, column));
}

float Weights::offsetAt(int64_t row, int64_t column) const {
  return offsets.empty() ? 0 : offsets[size_t(row * columns + column)];
}

float Weights::scaleAt(int64_t row, int64_t column) const {
  return scales.empty() ? 0 : scales[size_t(row * columns + column)];
}

} // namespace moeplan::testing
