#include "compiler/quantize/panel.h"

#include "compiler/quantize/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Columns converted at a time, so that a row-major piece of 16 rows stays in the first cache.
constexpr uint64_t kPiece = 64;

/// piece [16][kPiece] -> out [count] vectors. True where everything is finite.
MOEPLAN_MULTIVERSION bool transpose(const float *piece, uint64_t count, Lanes *out) {
  Lanes sum{};
  for (uint64_t k = 0; k < count; ++k) {
    Lanes column;
    for (unsigned r = 0; r < kLanes; ++r)
      column[r] = piece[r * kPiece + k];
    out[k] = column;
    sum += column * 0.0f; // 0, or NaN where the column holds a NaN or an infinity
  }
  for (unsigned r = 0; r < kLanes; ++r)
    if (sum[r] != 0)
      return false;
  return true;
}

MOEPLAN_MULTIVERSION void packCodes(const PanelCodes &n, WordLanes *out) {
  const uint64_t blocks = (n.columns + MOEPLAN_BLOCK_COLUMNS - 1) / MOEPLAN_BLOCK_COLUMNS;
  const uint32_t bits = n.bits, perByte = bits == 3 ? 4 : 8 / bits, width = bits == 3 ? 2 : bits;
  for (uint64_t block = 0; block < blocks; ++block, out += bits) {
    WordLanes words[8] = {};
    for (unsigned c = 0; c < MOEPLAN_BLOCK_COLUMNS; ++c) {
      const uint64_t column = block * MOEPLAN_BLOCK_COLUMNS + c;
      if (column >= n.columns)
        break;
      const unsigned quad = c / 4, byte = c % 4;
      const WordLanes code = (WordLanes)toInt(n.codes[column]);
      words[quad / perByte] |= (bits == 3 ? code & 3 : code)
                               << (8 * byte + width * (quad % perByte));
      if (bits == 3)
        words[2] |= (code >> 2) << (8 * byte + quad);
    }
    for (unsigned i = 0; i < bits; ++i)
      out[i] = words[i];
  }
}

MOEPLAN_MULTIVERSION void subtractCodes(const Panel &panel, const PanelCodes &n, Lanes *out) {
  for (uint64_t g = 0; g < n.groups; ++g) {
    const Lanes scale = decodeScale(n.scales[g]), zero = decodeZero(n.zeros[g], n.steps);
    for (uint64_t k = g * n.groupSize; k < n.groupEnd(g); ++k)
      out[k] = panel.values[k] - scale * (n.codes[k] - zero);
  }
}

} // namespace

PanelCodes::PanelCodes(const FormatInfo &format, uint64_t columns)
    : bits(format.bits), columns(columns), groupSize(format.groupSize),
      groups((columns + groupSize - 1) / groupSize), largest(float((1u << bits) - 1)),
      steps(256.0f / float(1u << bits)), buffer(columns + 2 * groups), codes(buffer.data()),
      scales(reinterpret_cast<IntLanes *>(codes + columns)), zeros(scales + groups) {}

std::optional<PanelPosition> moeplan::compiler::loadPanel(DType dtype, const uint8_t *in,
                                                          uint64_t rows, Panel &panel) {
  alignas(64) float piece[kLanes * kPiece] = {};
  const uint64_t rowBytes = panel.columns * dtypeBytes(dtype);
  for (uint64_t begin = 0; begin < panel.columns; begin += kPiece) {
    const uint64_t count = std::min(kPiece, panel.columns - begin);
    for (uint64_t r = 0; r < rows; ++r)
      decodeElements(dtype, in + r * rowBytes + begin * dtypeBytes(dtype), count,
                     piece + r * kPiece);
    if (transpose(piece, count, panel.values + begin))
      continue;
    for (uint64_t r = 0; r < rows; ++r)
      for (uint64_t k = 0; k < count; ++k)
        if (!std::isfinite(piece[r * kPiece + k]))
          return PanelPosition{r, begin + k};
  }
  return std::nullopt;
}

void moeplan::compiler::packPanel(const PanelCodes &numbers, const WeightShape &tile,
                                  uint8_t *out) {
  const uint64_t blocks = tiled::blocks(tile), blockBytes = tiled::blockBytes(tile);
  LaneBuffer words(blocks * numbers.bits);
  packCodes(numbers, reinterpret_cast<WordLanes *>(words.data()));
  const auto *codes = reinterpret_cast<const uint8_t *>(words.data());
  for (uint64_t block = 0; block < blocks; block += tiled::groupBlocks(tile))
    std::memcpy(out + tiled::blockOffset(tile, block), codes + block * blockBytes,
                std::min(tiled::groupBlocks(tile), blocks - block) * blockBytes);
  for (uint64_t g = 0; g < numbers.groups; ++g)
    for (unsigned r = 0; r < kLanes; ++r) {
      uint8_t *scales = out + tiled::scaleOffset(tile, g);
      scales[r] = uint8_t(numbers.scales[g][r]);
      scales[kLanes + r] = uint8_t(numbers.zeros[g][r]);
    }
}

void moeplan::compiler::panelError(const Panel &panel, const PanelCodes &numbers, Lanes *out) {
  subtractCodes(panel, numbers, out);
}
