// Tables of text, for reports.
#pragma once

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/raw_ostream.h"

#include <string>
#include <vector>

namespace moeplan::compiler {

/// Rows of cells, each column as wide as its widest; the first to the left, the rest to the right.
inline void printTable(llvm::raw_ostream &out, llvm::ArrayRef<std::vector<std::string>> rows) {
  std::vector<size_t> widths;
  for (const auto &row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (auto [width, cell] : llvm::zip(widths, row))
      width = std::max(width, cell.size());
  }
  for (const auto &row : rows) {
    std::string line;
    for (auto [index, cell] : llvm::enumerate(row)) {
      const std::string padding(widths[index] - cell.size(), ' ');
      line += index == 0 ? cell + padding : "  " + padding + cell;
    }
    out << llvm::StringRef(line).rtrim() << "\n";
  }
}

} // namespace moeplan::compiler
