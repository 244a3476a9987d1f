// Layouts of weights in memory, each with its size, pack, unpack and the value of one element: the
// scalar reference of everything that reads a weight.
#pragma once

#include "kernel_abi.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace moeplan {

/// What a layout needs to know of a weight: its format and its shape.
struct WeightShape {
  uint32_t bits;
  uint32_t groupSize; ///< 0: no scales
  uint64_t rows, columns;

  uint64_t groups() const { return (columns + groupSize - 1) / groupSize; }
};

/// How a scale is stored. E5M3: one byte, see kernel_abi.h.
enum class ScaleType { None, E5M3 };

/// The value of an E5M3 byte.
inline float decodeScale(uint8_t scale) {
  const uint32_t bits = (uint32_t(scale) << 20) + MOEPLAN_SCALE_BIAS;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
/// The zero point of a byte, in units of codes of `bits` bits.
inline float decodeZero(uint8_t zero, uint32_t bits) {
  return float(zero) * float(1u << bits) / 256.0f;
}

/// The numbers of a quantised weight before they are packed; borrowed. Row-major.
struct QuantizedView {
  uint8_t *codes;  ///< [rows][columns]
  uint8_t *scales; ///< [rows][groups]
  uint8_t *zeros;  ///< [rows][groups]
};

/// One layout. `pack` and `unpack` carry the numbers of quantised formats; for formats without
/// scales `codes` points to the elements themselves, row-major, and the rest is not looked at.
struct PackingInfo {
  std::string_view name;
  /// Nothing where the size exceeds 64 bits.
  std::optional<uint64_t> (*bytes)(const WeightShape &shape);
  void (*pack)(const WeightShape &shape, const QuantizedView &numbers, uint8_t *out);
  void (*unpack)(const WeightShape &shape, const uint8_t *in, const QuantizedView &numbers);
  /// The value of one element.
  float (*at)(const WeightShape &shape, const uint8_t *in, uint64_t row, uint64_t column);
};

namespace row_major {

inline std::optional<uint64_t> bytes(const WeightShape &s) {
  uint64_t elements = 0, bits = 0;
  if (__builtin_mul_overflow(s.rows, s.columns, &elements) ||
      __builtin_mul_overflow(elements, uint64_t(s.bits), &bits))
    return std::nullopt;
  return bits / 8;
}
inline void pack(const WeightShape &s, const QuantizedView &n, uint8_t *out) {
  std::memcpy(out, n.codes, s.rows * s.columns * s.bits / 8);
}
inline void unpack(const WeightShape &s, const uint8_t *in, const QuantizedView &n) {
  std::memcpy(n.codes, in, s.rows * s.columns * s.bits / 8);
}
/// float32.
inline float at(const WeightShape &s, const uint8_t *in, uint64_t row, uint64_t column) {
  float value;
  std::memcpy(&value, in + (row * s.columns + column) * sizeof(value), sizeof(value));
  return value;
}

} // namespace row_major

/// Elements of 16 bits in tiles of 16 rows and pairs of columns, as described in kernel_abi.h.
namespace pairs {

inline std::optional<uint64_t> bytes(const WeightShape &s) {
  uint64_t elements = 0, bytes = 0;
  const uint64_t rows = s.rows / MOEPLAN_TILE_ROWS + (s.rows % MOEPLAN_TILE_ROWS != 0);
  const uint64_t quads = s.columns / 4 + (s.columns % 4 != 0);
  if (__builtin_mul_overflow(rows, quads, &elements) ||
      __builtin_mul_overflow(elements, uint64_t(4 * MOEPLAN_TILE_ROWS * sizeof(uint16_t)), &bytes))
    return std::nullopt;
  return bytes;
}
inline void pack(const WeightShape &s, const QuantizedView &n, uint8_t *out) {
  std::memset(out, 0, *bytes(s));
  for (uint64_t row = 0; row < s.rows; ++row) {
    uint8_t *target = out + MOEPLAN_PAIR_INDEX(row, uint64_t(0), s.columns) * 2;
    const uint8_t *source = n.codes + row * s.columns * 2;
    for (uint64_t column = 0; column + 2 <= s.columns; column += 2)
      std::memcpy(target + column * MOEPLAN_TILE_ROWS * 2, source + column * 2, 4);
    if (s.columns % 2)
      std::memcpy(target + (s.columns - 1) * MOEPLAN_TILE_ROWS * 2, source + (s.columns - 1) * 2,
                  2);
  }
}
inline void unpack(const WeightShape &s, const uint8_t *in, const QuantizedView &n) {
  for (uint64_t row = 0; row < s.rows; ++row)
    for (uint64_t column = 0; column < s.columns; ++column)
      std::memcpy(n.codes + (row * s.columns + column) * 2,
                  in + MOEPLAN_PAIR_INDEX(row, column, s.columns) * 2, 2);
}
/// bf16: the upper half of a float32.
inline float at(const WeightShape &s, const uint8_t *in, uint64_t row, uint64_t column) {
  uint16_t half = 0;
  std::memcpy(&half, in + MOEPLAN_PAIR_INDEX(row, column, s.columns) * 2, 2);
  const uint32_t bits = uint32_t(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

} // namespace pairs

/// Tiles of 16 rows, groups of columns, blocks of 32: see kernel_abi.h.
namespace tiled {

constexpr uint64_t kRows = MOEPLAN_TILE_ROWS, kColumns = MOEPLAN_BLOCK_COLUMNS;

inline uint64_t tiles(const WeightShape &s) { return s.rows / kRows + (s.rows % kRows != 0); }
inline uint64_t blocks(const WeightShape &s) {
  return s.columns / kColumns + (s.columns % kColumns != 0);
}
inline uint64_t blockBytes(const WeightShape &s) { return s.bits * kRows * sizeof(uint32_t); }
/// Bytes of the scales and zeros of a group.
constexpr uint64_t kScaleBytes = 2 * kRows;
inline uint64_t tileBytes(const WeightShape &s) {
  return blocks(s) * blockBytes(s) + s.groups() * kScaleBytes;
}
/// Blocks of a whole group, and its bytes.
inline uint64_t groupBlocks(const WeightShape &s) { return s.groupSize / kColumns; }
inline uint64_t groupBytes(const WeightShape &s) {
  return groupBlocks(s) * blockBytes(s) + kScaleBytes;
}
/// Where the codes of a block of columns start in a tile.
inline uint64_t blockOffset(const WeightShape &s, uint64_t block) {
  return block / groupBlocks(s) * groupBytes(s) + block % groupBlocks(s) * blockBytes(s);
}
/// Where the scales of a group start in a tile; its zeros follow.
inline uint64_t scaleOffset(const WeightShape &s, uint64_t group) {
  const uint64_t left = blocks(s) - group * groupBlocks(s);
  const uint64_t count = left < groupBlocks(s) ? left : groupBlocks(s);
  return group * groupBytes(s) + count * blockBytes(s);
}

inline std::optional<uint64_t> bytes(const WeightShape &s) {
  uint64_t cells = 0, codes = 0, scales = 0, sum = 0;
  const uint64_t groups = s.columns / s.groupSize + (s.columns % s.groupSize != 0);
  if (__builtin_mul_overflow(tiles(s), blocks(s), &cells) ||
      __builtin_mul_overflow(cells, blockBytes(s), &codes) ||
      __builtin_mul_overflow(tiles(s), groups, &cells) ||
      __builtin_mul_overflow(cells, kScaleBytes, &scales) ||
      __builtin_add_overflow(codes, scales, &sum))
    return std::nullopt;
  return sum;
}

/// A piece of a code: `width` bits from `codeShift` of the code are at `byteShift` of a byte.
struct Piece {
  uint64_t byte;
  uint32_t byteShift, codeShift, width;
};
/// The pieces of the code at (row, column): one, or two for 3 bits.
struct Pieces {
  Piece piece[2];
  uint32_t count;
};
inline Pieces locate(const WeightShape &s, uint64_t row, uint64_t column) {
  const uint64_t block = row / kRows * tileBytes(s) + blockOffset(s, column / kColumns);
  const uint32_t quad = uint32_t(column % kColumns / 4);
  auto byteOf = [&](uint32_t word) {
    return block + (word * kRows + row % kRows) * sizeof(uint32_t) + column % 4;
  };
  if (s.bits == 3)
    return {{{byteOf(quad / 4), 2 * (quad % 4), 0, 2}, {byteOf(2), quad, 2, 1}}, 2};
  const uint32_t perByte = 8 / s.bits;
  return {{{byteOf(quad / perByte), s.bits * (quad % perByte), 0, s.bits}, {}}, 1};
}
inline uint64_t scaleByte(const WeightShape &s, uint64_t row, uint64_t group) {
  return row / kRows * tileBytes(s) + scaleOffset(s, group) + row % kRows;
}

inline uint8_t codeAt(const WeightShape &s, const uint8_t *in, uint64_t row, uint64_t column) {
  const Pieces pieces = locate(s, row, column);
  uint32_t code = 0;
  for (uint32_t i = 0; i < pieces.count; ++i) {
    const Piece &p = pieces.piece[i];
    code |= (uint32_t(in[p.byte]) >> p.byteShift & ((1u << p.width) - 1)) << p.codeShift;
  }
  return uint8_t(code);
}
inline void pack(const WeightShape &s, const QuantizedView &n, uint8_t *out) {
  std::memset(out, 0, *bytes(s));
  for (uint64_t row = 0; row < s.rows; ++row) {
    for (uint64_t column = 0; column < s.columns; ++column) {
      const uint32_t code = n.codes[row * s.columns + column];
      const Pieces pieces = locate(s, row, column);
      for (uint32_t i = 0; i < pieces.count; ++i) {
        const Piece &p = pieces.piece[i];
        out[p.byte] |= uint8_t((code >> p.codeShift & ((1u << p.width) - 1)) << p.byteShift);
      }
    }
    for (uint64_t group = 0; group < s.groups(); ++group) {
      out[scaleByte(s, row, group)] = n.scales[row * s.groups() + group];
      out[scaleByte(s, row, group) + kRows] = n.zeros[row * s.groups() + group];
    }
  }
}
inline void unpack(const WeightShape &s, const uint8_t *in, const QuantizedView &n) {
  for (uint64_t row = 0; row < s.rows; ++row) {
    for (uint64_t column = 0; column < s.columns; ++column)
      n.codes[row * s.columns + column] = codeAt(s, in, row, column);
    for (uint64_t group = 0; group < s.groups(); ++group) {
      n.scales[row * s.groups() + group] = in[scaleByte(s, row, group)];
      n.zeros[row * s.groups() + group] = in[scaleByte(s, row, group) + kRows];
    }
  }
}
inline float at(const WeightShape &s, const uint8_t *in, uint64_t row, uint64_t column) {
  const uint64_t scale = scaleByte(s, row, column / s.groupSize);
  return decodeScale(in[scale]) *
         (float(codeAt(s, in, row, column)) - decodeZero(in[scale + kRows], s.bits));
}

} // namespace tiled

inline constexpr PackingInfo kRowMajorPacking{"row-major", row_major::bytes, row_major::pack,
                                              row_major::unpack, row_major::at};
inline constexpr PackingInfo kPairPacking{"tiles of 16 rows, pairs of columns", pairs::bytes,
                                          pairs::pack, pairs::unpack, pairs::at};
inline constexpr PackingInfo kTiledPacking{"tiles of 16x32", tiled::bytes, tiled::pack,
                                           tiled::unpack, tiled::at};

} // namespace moeplan
