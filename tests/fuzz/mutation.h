// Random damage to bytes, the same for the same seed.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>

namespace moeplan::testing {

class Mutator {
public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  uint64_t below(uint64_t bound) { return random_() % bound; }

  /// One byte of [begin, end) gets another value.
  void flipByte(std::string &bytes, size_t begin, size_t end) {
    bytes[begin + below(end - begin)] ^= char(1 + below(255));
  }

  /// Flips or overwrites up to eight bytes, or sets a 16, 32 or 64 bit field to a number that is
  /// often wrong: a bound, a sign change, one more or less than what was there.
  void mutate(std::string &bytes, size_t begin, size_t end) {
    switch (below(4)) {
    case 0:
      for (uint64_t i = 0, count = 1 + below(8); i < count; ++i)
        flipByte(bytes, begin, end);
      break;
    case 1:
      setField<uint16_t>(bytes, begin, end);
      break;
    case 2:
      setField<uint32_t>(bytes, begin, end);
      break;
    default:
      setField<uint64_t>(bytes, begin, end);
    }
  }

private:
  template <typename T> void setField(std::string &bytes, size_t begin, size_t end) {
    const size_t slots = (end - begin) / sizeof(T);
    char *field = bytes.data() + begin + below(slots) * sizeof(T);
    T value;
    std::memcpy(&value, field, sizeof(T));
    const T candidates[] = {0,
                            1,
                            T(value + 1),
                            T(value - 1),
                            T(~T(0)),
                            T(~T(0) >> 1),
                            T(T(1) << (sizeof(T) * 8 - 1)),
                            T(value * 2),
                            T(T(0) - value),
                            T(T(1) << below(sizeof(T) * 8)),
                            T(below(64)),
                            T(random_())};
    value = candidates[below(std::size(candidates))];
    std::memcpy(field, &value, sizeof(T));
  }

  std::mt19937_64 random_;
};

} // namespace moeplan::testing
