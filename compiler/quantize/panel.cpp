#include "compiler/quantize/panel.h"

#include "compiler/quantize/convert.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Columns converted at a time, so that a row-major piece of 16 rows stays in the first cache.
constexpr uint64_t kPiece = 64;

/// piece [16][kPiece] -> out [count][16]. Clears `finite` where not everything is.
template <typename F>
MOEPLAN_LANES_INLINE void transposeRows(const float *piece, uint64_t count, Rows<F> out,
                                        bool &finite) {
  F sum{};
  for (uint64_t k = 0; k < count; ++k) {
    F column;
    for (unsigned r = 0; r < kRowsOf<F>; ++r)
      column[r] = piece[r * kPiece + k];
    out[k] = column;
    sum += column * 0.0f; // 0, or NaN where the column holds a NaN or an infinity
  }
  for (unsigned r = 0; r < kRowsOf<F>; ++r)
    finite &= sum[r] == 0;
}
MOEPLAN_BY_INSTRUCTION_SET(transpose,
                           (const float *piece, uint64_t count, float *out, bool &finite),
                           (piece, count, out, finite),
                           MOEPLAN_FOR_ROWS(transposeRows(piece + row * kPiece, count,
                                                          Rows<F>(out, row), finite)))

template <typename W>
MOEPLAN_LANES_INLINE void packRows(const PanelCodes &n, Rows<W> out, unsigned row) {
  const Rows<FloatOf<W>> codes(n.codes, row);
  const uint64_t blocks = (n.columns + MOEPLAN_BLOCK_COLUMNS - 1) / MOEPLAN_BLOCK_COLUMNS;
  const uint32_t bits = n.bits, perByte = bits == 3 ? 4 : 8 / bits, width = bits == 3 ? 2 : bits;
  for (uint64_t block = 0; block < blocks; ++block) {
    W words[8] = {};
    for (unsigned c = 0; c < MOEPLAN_BLOCK_COLUMNS; ++c) {
      const uint64_t column = block * MOEPLAN_BLOCK_COLUMNS + c;
      if (column >= n.columns)
        break;
      const unsigned quad = c / 4, byte = c % 4;
      const W code = (W)toInt(codes[column]);
      words[quad / perByte] |= (bits == 3 ? code & 3 : code)
                               << (8 * byte + width * (quad % perByte));
      if (bits == 3)
        words[2] |= (code >> 2) << (8 * byte + quad);
    }
    for (unsigned i = 0; i < bits; ++i)
      out[block * bits + i] = words[i];
  }
}
MOEPLAN_BY_INSTRUCTION_SET(packCodes, (const PanelCodes &n, float *out), (n, out),
                           MOEPLAN_FOR_ROWS(packRows(n, Rows<WordOf<F>>(out, row), row)))

template <typename F>
MOEPLAN_LANES_INLINE void subtractRows(const Panel &panel, const PanelCodes &n, Rows<F> out,
                                       unsigned row) {
  const Rows<F> values(panel.values, row), codes(n.codes, row);
  const Rows<IntOf<F>> scales(n.scales, row), zeros(n.zeros, row);
  for (uint64_t g = 0; g < n.groups; ++g) {
    const F scale = decodeScale(scales[g]), zero = decodeZero(zeros[g], n.steps);
    for (uint64_t k = g * n.groupSize; k < n.groupEnd(g); ++k)
      out[k] = values[k] - scale * (codes[k] - zero);
  }
}
MOEPLAN_BY_INSTRUCTION_SET(subtractCodes, (const Panel &panel, const PanelCodes &n, float *out),
                           (panel, n, out),
                           MOEPLAN_FOR_ROWS(subtractRows(panel, n, Rows<F>(out, row), row)))

std::atomic<unsigned> mostLanes{kLanes};

} // namespace

unsigned moeplan::compiler::lanesAtOnce() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const unsigned ofCpu = __builtin_cpu_supports("avx512f") ? 16
                                : __builtin_cpu_supports("avx2")  ? 8
                                                                  : 4;
#else
  constexpr unsigned ofCpu = 4;
#endif
  return std::min(ofCpu, mostLanes.load(std::memory_order_relaxed));
}

void moeplan::compiler::limitLanes(unsigned most) { mostLanes = most; }

PanelCodes::PanelCodes(const FormatInfo &format, uint64_t columns)
    : bits(format.bits), columns(columns), groupSize(format.groupSize),
      groups((columns + groupSize - 1) / groupSize), largest(float((1u << bits) - 1)),
      steps(256.0f / float(1u << bits)), buffer(columns + 2 * groups), codes(buffer.data()),
      scales(reinterpret_cast<int32_t *>(codes + columns * kLanes)),
      zeros(scales + groups * kLanes) {}

std::optional<PanelPosition> moeplan::compiler::loadPanel(DType dtype, const uint8_t *in,
                                                          uint64_t rows, Panel &panel) {
  alignas(64) float piece[kLanes * kPiece] = {};
  const uint64_t rowBytes = panel.columns * dtypeBytes(dtype);
  for (uint64_t begin = 0; begin < panel.columns; begin += kPiece) {
    const uint64_t count = std::min(kPiece, panel.columns - begin);
    for (uint64_t r = 0; r < rows; ++r)
      decodeElements(dtype, in + r * rowBytes + begin * dtypeBytes(dtype), count,
                     piece + r * kPiece);
    bool finite = true;
    transpose(piece, count, panel.values + begin * kLanes, finite);
    if (finite)
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
  packCodes(numbers, words.data());
  const auto *codes = reinterpret_cast<const uint8_t *>(words.data());
  for (uint64_t block = 0; block < blocks; block += tiled::groupBlocks(tile))
    std::memcpy(out + tiled::blockOffset(tile, block), codes + block * blockBytes,
                std::min(tiled::groupBlocks(tile), blocks - block) * blockBytes);
  for (uint64_t g = 0; g < numbers.groups; ++g)
    for (unsigned r = 0; r < kLanes; ++r) {
      uint8_t *scales = out + tiled::scaleOffset(tile, g);
      scales[r] = uint8_t(numbers.scales[g * kLanes + r]);
      scales[kLanes + r] = uint8_t(numbers.zeros[g * kLanes + r]);
    }
}

void moeplan::compiler::panelError(const Panel &panel, const PanelCodes &numbers, float *out) {
  subtractCodes(panel, numbers, out);
}
