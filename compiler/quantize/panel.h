// A tile of 16 rows of a weight on its way through a quantiser.
#pragma once

#include "compiler/import/checkpoint.h"
#include "compiler/quantize/lanes.h"
#include "formats.h"

#include <algorithm>
#include <memory>
#include <new>
#include <optional>

namespace moeplan::compiler {

/// [count][kLanes] numbers of 4 bytes, 64-byte aligned, without initialisation.
class LaneBuffer {
public:
  explicit LaneBuffer(uint64_t count)
      : data_(static_cast<float *>(::operator new(count *kLanes * 4, std::align_val_t(64)))) {}
  float *data() const { return data_.get(); }

private:
  struct Free {
    void operator()(float *p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<float, Free> data_;
};

/// 16 rows, transposed: those of a column one behind the other. Rows beyond the weight's last are
/// zero.
struct Panel {
  explicit Panel(uint64_t columns) : columns(columns), buffer(columns), values(buffer.data()) {}
  uint64_t columns;
  LaneBuffer buffer;
  float *values; ///< [columns][kLanes]
};

/// The quantised numbers of a panel: codes as whole floats, scales and zeros as their bytes.
struct PanelCodes {
  PanelCodes(const FormatInfo &format, uint64_t columns);

  uint32_t bits;
  uint64_t columns, groupSize, groups;
  float largest; ///< 2^bits - 1
  float steps;   ///< of a zero point per code: 256 / 2^bits
  LaneBuffer buffer;
  float *codes;            ///< [columns][kLanes]
  int32_t *scales, *zeros; ///< [groups][kLanes]

  uint64_t groupEnd(uint64_t group) const { return std::min((group + 1) * groupSize, columns); }
};

/// A position in a panel.
struct PanelPosition {
  uint64_t row, column;
};

/// Loads `rows` (at most 16) rows that begin at `in`, row-major, of `dtype`. The position of a NaN
/// or an infinity, where there is one.
std::optional<PanelPosition> loadPanel(DType dtype, const uint8_t *in, uint64_t rows, Panel &panel);

/// Writes the tile in the packed layout (kernel_abi.h): `out` takes tiled::tileBytes(tile).
void packPanel(const PanelCodes &numbers, const WeightShape &tile, uint8_t *out);

/// What is lost: `out` [columns][kLanes] = panel - codes.
void panelError(const Panel &panel, const PanelCodes &numbers, float *out);

} // namespace moeplan::compiler
