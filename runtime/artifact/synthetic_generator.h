// Random weights, statistically like trained ones, at the speed of memory.
#pragma once

#include "formats.h"
#include "kernel_abi.h"

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

namespace moeplan {

/// What a synthetic weight is generated from, besides the seed.
struct SyntheticWeight {
  std::string_view name; ///< weights of different names differ; borrowed
  const FormatInfo *format;
  uint64_t rows, columns;
  bool isVector; ///< of a norm: numbers around 1. A matrix has mean 0 and variance 1 / columns.
};

/// Generates the bytes of weights. A weight is a sequence of blocks, each copied from some place of
/// a pool of bell-shaped random numbers in the weight's format; the place follows from the seed,
/// the weight and the block's position alone. The arithmetic is the same on every machine.
class SyntheticGenerator {
public:
  explicit SyntheticGenerator(uint64_t seed) : seed_(seed) {}

  /// Makes the pools that `weight` is copied from, unless an earlier weight has: some milliseconds.
  void prepare(const SyntheticWeight &weight);
  /// Writes bytes [begin, begin + out.size()) of `weight`, for which prepare() was called: the same
  /// bytes however the weight is cut into parts. May be called from several threads. Numbers of
  /// formats without scales are independent, so that the bytes are right for any order of them.
  void fill(const SyntheticWeight &weight, uint64_t begin, std::span<std::byte> out) const;
  /// How fill() does it, for those who do it elsewhere: without a target. The pool is of this.
  moeplan_synthetic_copy copyOf(const SyntheticWeight &weight) const;
  std::span<const std::byte> poolOf(const SyntheticWeight &weight) const;

private:
  /// Blocks begin at multiples of `unitBytes`, both in the pool and in the weight.
  struct Pool {
    std::vector<std::byte> bytes;
    uint64_t unitBytes = 1, blockBytes = 1;
  };
  struct Kind {
    moeplan_format format;
    bool isVector;
    uint64_t columns;
    auto operator<=>(const Kind &) const = default;
  };
  static Kind kindOf(const SyntheticWeight &weight);
  Pool elementPool(const SyntheticWeight &weight) const;
  Pool packedPool(const SyntheticWeight &weight) const;

  uint64_t seed_;
  std::map<Kind, Pool> pools_;
};

} // namespace moeplan
