#include "runtime/artifact/synthetic_generator.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <xxhash.h>

namespace moeplan {

namespace {

/// Bytes of a pool of numbers: with the memory it is copied to, it stays in a core's cache.
constexpr uint64_t kPoolBytes = 512 << 10;
/// Of packed formats; long rows make larger pools.
constexpr uint64_t kLeastTilesPerPool = 4;
/// Blocks of a pool's length. One block begins at any unit that leaves room for it.
constexpr uint64_t kBlocksPerPool = 16;
/// Bytes between two places of a pool of numbers without scales where blocks may begin.
constexpr uint64_t kElementUnitBytes = 64;

/// Standard deviation of the numbers of a norm around 1.
constexpr double kVectorDeviation = 0.1;
/// Half of what the codes span, in standard deviations: about the largest of 64 normal numbers.
constexpr double kCodeRange = 2.5;
/// Standard deviation of the scales of one weight, relative to their mean.
constexpr double kScaleDeviation = 0.15;
/// Zeros differ from the middle of the codes by up to this many of their 256 steps.
constexpr double kZeroRange = 8;

class Random {
public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() { return moeplan_mix(state_ += MOEPLAN_GOLDEN); }
  /// In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Mean 0 and variance 1, nearly normal: the sum of twelve uniform numbers of 16 bits. Exact,
  /// where the logarithms of other methods differ between libraries.
  double normal() {
    uint64_t sum = 0;
    for (int i = 0; i < 3; ++i) {
      const uint64_t bits = next();
      sum += (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    }
    constexpr double kMean = 12 * 65535 / 2.0, kDeviation = 65536;
    return (static_cast<double>(sum) - kMean) / kDeviation;
  }

private:
  uint64_t state_;
};

double deviationOf(const SyntheticWeight &weight) {
  return weight.isVector ? kVectorDeviation : 1 / std::sqrt(static_cast<double>(weight.columns));
}

/// The scale below or above `scale` among those that can be stored, such that squares are right on
/// average.
uint8_t storedScale(double scale, double uniform) {
  uint8_t lower = 0;
  while (lower < 254 && decodeScale(lower + 1) <= scale)
    ++lower;
  auto square = [](double value) { return value * value; };
  const double low = square(decodeScale(lower)), high = square(decodeScale(lower + 1));
  return uint8_t(lower + (low + uniform * (high - low) < square(scale)));
}

} // namespace

SyntheticGenerator::Kind SyntheticGenerator::kindOf(const SyntheticWeight &weight) {
  return {weight.format->id, weight.isVector, weight.columns};
}

void SyntheticGenerator::prepare(const SyntheticWeight &weight) {
  if (!pools_.contains(kindOf(weight)))
    pools_.emplace(kindOf(weight),
                   weight.format->isPacked() ? packedPool(weight) : elementPool(weight));
}

/// float32, or the upper half of it rounded to nearest: bf16.
SyntheticGenerator::Pool SyntheticGenerator::elementPool(const SyntheticWeight &weight) const {
  const double mean = weight.isVector ? 1 : 0, deviation = deviationOf(weight);
  const uint64_t size = weight.format->bits / 8;
  Random random(moeplan_mix(seed_ ^ weight.format->id));
  Pool pool{std::vector<std::byte>(kPoolBytes), kElementUnitBytes, kPoolBytes / kBlocksPerPool};
  for (uint64_t at = 0; at < kPoolBytes; at += size) {
    auto bits = std::bit_cast<uint32_t>(static_cast<float>(mean + deviation * random.normal()));
    if (size == 2)
      bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    std::memcpy(pool.bytes.data() + at, &bits, size);
  }
  return pool;
}

/// Whole tiles of rounded numbers: within them codes and scales have their places.
SyntheticGenerator::Pool SyntheticGenerator::packedPool(const SyntheticWeight &weight) const {
  const FormatInfo &format = *weight.format;
  WeightShape shape{format.bits, format.groupSize, MOEPLAN_TILE_ROWS, weight.columns};
  const uint64_t tileBytes = tiled::tileBytes(shape);
  shape.rows *= std::max<uint64_t>(kPoolBytes / tileBytes, kLeastTilesPerPool);

  const uint32_t levels = 1u << format.bits;
  const double middle = (levels - 1) / 2.0, step = 2 * kCodeRange / (levels - 1);
  Random random(moeplan_mix(seed_ ^ format.id));
  std::vector<uint8_t> codes(shape.rows * shape.columns);
  double squares = 0;
  for (uint8_t &code : codes) {
    const double value = std::floor(middle + 0.5 + random.normal() / step);
    code = uint8_t(std::clamp(value, 0.0, double(levels - 1)));
    squares += (code - middle) * (code - middle);
  }
  double variance = squares / static_cast<double>(codes.size());

  std::vector<uint8_t> zeros(shape.rows * shape.groups()), scales(zeros.size());
  squares = 0;
  for (uint8_t &zero : zeros) {
    zero =
        uint8_t(std::floor(middle * 256 / levels + 0.5 + kZeroRange * (2 * random.uniform() - 1)));
    const double shift = decodeZero(zero, format.bits) - middle;
    squares += shift * shift;
  }
  variance += squares / static_cast<double>(zeros.size());

  const double scale =
      deviationOf(weight) / std::sqrt(variance * (1 + kScaleDeviation * kScaleDeviation));
  for (uint8_t &stored : scales) // six deviations are the most there are
    stored = storedScale(scale * (1 + kScaleDeviation * random.normal()), random.uniform());

  std::vector<uint8_t> packed(*tiled::bytes(shape));
  format.packing->pack(shape, {codes.data(), scales.data(), zeros.data()}, packed.data());
  const auto *begin = reinterpret_cast<const std::byte *>(packed.data());
  return Pool{{begin, begin + packed.size()}, tileBytes, tileBytes};
}

std::span<const std::byte> SyntheticGenerator::poolOf(const SyntheticWeight &weight) const {
  return pools_.at(kindOf(weight)).bytes;
}

moeplan_synthetic_copy SyntheticGenerator::copyOf(const SyntheticWeight &weight) const {
  const Pool &pool = pools_.at(kindOf(weight));
  uint64_t key = XXH3_64bits_withSeed(weight.name.data(), weight.name.size(), seed_);
  for (uint64_t value : {uint64_t(weight.format->id), weight.rows, weight.columns})
    key = moeplan_mix(key + MOEPLAN_GOLDEN + value);
  return {.pool = reinterpret_cast<const char *>(pool.bytes.data()),
          .target = nullptr,
          .bytes = *formatBytes(*weight.format, weight.rows, weight.columns),
          .key = key,
          .places = (pool.bytes.size() - pool.blockBytes) / pool.unitBytes + 1,
          .unit_bytes = pool.unitBytes,
          .block_bytes = pool.blockBytes};
}

void SyntheticGenerator::fill(const SyntheticWeight &weight, uint64_t begin,
                              std::span<std::byte> out) const {
  const moeplan_synthetic_copy copy = copyOf(weight);
  while (!out.empty()) {
    const uint64_t block = begin / copy.block_bytes, offset = begin % copy.block_bytes;
    const uint64_t place =
        moeplan_mix(copy.key + block * MOEPLAN_GOLDEN) % copy.places * copy.unit_bytes;
    const uint64_t count = std::min<uint64_t>(out.size(), copy.block_bytes - offset);
    std::memcpy(out.data(), copy.pool + place + offset, count);
    out = out.subspan(count);
    begin += count;
  }
}

} // namespace moeplan
