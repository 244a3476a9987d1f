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

/// Memory of 64-byte aligned vectors, without initialisation.
class LaneBuffer {
public:
  explicit LaneBuffer(uint64_t count)
      : data_(static_cast<Lanes *>(::operator new(count * sizeof(Lanes), std::align_val_t(64)))) {}
  Lanes *data() const { return data_.get(); }

private:
  struct Free {
    void operator()(Lanes *p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<Lanes, Free> data_;
};

/// 16 rows, transposed: one vector per column. Rows beyond the weight's last are zero.
struct Panel {
  explicit Panel(uint64_t columns) : columns(columns), buffer(columns), values(buffer.data()) {}
  uint64_t columns;
  LaneBuffer buffer;
  Lanes *values; ///< [columns]
};

/// The quantised numbers of a panel: codes as whole floats, scales and zeros as their bytes.
struct PanelCodes {
  PanelCodes(const FormatInfo &format, uint64_t columns);

  uint32_t bits;
  uint64_t columns, groupSize, groups;
  float largest; ///< 2^bits - 1
  float steps;   ///< of a zero point per code: 256 / 2^bits
  LaneBuffer buffer;
  Lanes *codes;             ///< [columns]
  IntLanes *scales, *zeros; ///< [groups]

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

/// What is lost: out[k] = panel - codes, for each column.
void panelError(const Panel &panel, const PanelCodes &numbers, Lanes *out);

} // namespace moeplan::compiler
