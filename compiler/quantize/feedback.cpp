#include "compiler/quantize/feedback.h"

#include "compiler/quantize/lanes.h"

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/ThreadPool.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>

using namespace moeplan::compiler;

namespace {

/// Rows and columns of a tile. Three tiles fit the second level cache of a core.
constexpr uint64_t kTile = 128;
/// A tile lies in strips of as many columns, each row after row: what the inner loop reads of one
/// stays in the first level cache.
constexpr uint64_t kStrip = 16;
constexpr uint64_t kStripSize = kTile * kStrip;

uint64_t indexInTile(uint64_t row, uint64_t column) {
  return column / kStrip * kStripSize + row * kStrip + column % kStrip;
}

/// The tiles on and above the diagonal of a square matrix. Beyond `size` it is the identity.
class TileTriangle {
public:
  explicit TileTriangle(uint64_t size)
      : tiles_((size + kTile - 1) / kTile),
        values_(static_cast<double *>(::operator new(
            tiles_ *(tiles_ + 1) / 2 * kTile * kTile * sizeof(double), std::align_val_t(64)))) {}
  uint64_t tiles() const { return tiles_; }
  /// row <= column.
  double *tile(uint64_t row, uint64_t column) {
    return values_.get() + (column * (column + 1) / 2 + row) * kTile * kTile;
  }
  const double *tile(uint64_t row, uint64_t column) const {
    return const_cast<TileTriangle *>(this)->tile(row, column);
  }

private:
  struct Free {
    void operator()(double *p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  uint64_t tiles_;
  std::unique_ptr<double, Free> values_;
};

/// Doubles in a vector as wide as F.
template <typename F> using DoubleOf = typename RowVectors<kRowsOf<F>>::Double;
template <typename F> constexpr uint64_t kDoublesOf = kRowsOf<F> / 2;

template <typename F> MOEPLAN_LANES_INLINE DoubleOf<F> &vectorAt(double *x) {
  return *reinterpret_cast<DoubleOf<F> *>(x);
}
template <typename F> MOEPLAN_LANES_INLINE const DoubleOf<F> &vectorAt(const double *x) {
  return *reinterpret_cast<const DoubleOf<F> *>(x);
}

/// y -= factor * x for a row of a strip.
template <typename F>
MOEPLAN_LANES_INLINE void subtractRow(double *y, const double *x, double factor) {
  for (uint64_t j = 0; j < kStrip; j += kDoublesOf<F>)
    vectorAt<F>(y + j) -= vectorAt<F>(x + j) * factor;
}
template <typename F> MOEPLAN_LANES_INLINE void divideRow(double *y, double divisor) {
  for (uint64_t j = 0; j < kStrip; j += kDoublesOf<F>)
    vectorAt<F>(y + j) /= DoubleOf<F>{} + divisor;
}

/// A = R^T R of a tile on the diagonal, in place; what is below the diagonal becomes meaningless.
template <typename F> MOEPLAN_LANES_INLINE void factorTileBy(double *a) {
  for (uint64_t i = 0; i < kTile; ++i) {
    const double pivot = std::sqrt(std::max(a[indexInTile(i, i)], 1e-300));
    const uint64_t first = i / kStrip;
    for (uint64_t strip = first; strip < kTile / kStrip; ++strip)
      divideRow<F>(a + strip * kStripSize + i * kStrip, pivot);
    for (uint64_t strip = first; strip < kTile / kStrip; ++strip) {
      double *rows = a + strip * kStripSize;
      for (uint64_t k = i + 1; k < (strip + 1) * kStrip; ++k)
        subtractRow<F>(rows + k * kStrip, rows + i * kStrip, a[indexInTile(i, k)]);
    }
  }
}

/// X with R^T X = A for a tile `a` to the right of the factored `r`, in place.
template <typename F> MOEPLAN_LANES_INLINE void solveTileBy(double *a, const double *r) {
  for (uint64_t strip = 0; strip < kTile / kStrip; ++strip) {
    double *rows = a + strip * kStripSize;
    for (uint64_t i = 0; i < kTile; ++i) {
      divideRow<F>(rows + i * kStrip, r[indexInTile(i, i)]);
      for (uint64_t k = i + 1; k < kTile; ++k)
        subtractRow<F>(rows + k * kStrip, rows + i * kStrip, r[indexInTile(i, k)]);
    }
  }
}

/// c -= a^T b, where all the time goes: 4 rows of two vectors at once in registers.
template <typename F>
MOEPLAN_LANES_INLINE void updateTileBy(double *c, const double *a, const double *b) {
  constexpr uint64_t kRows = 4, kVectors = 2, kColumns = kVectors * kDoublesOf<F>;
  for (uint64_t strip = 0; strip < kTile / kStrip; ++strip)
    for (uint64_t column = 0; column < kStrip; column += kColumns)
      for (uint64_t r = 0; r < kTile; r += kRows) {
        double *out = c + strip * kStripSize + r * kStrip + column;
        DoubleOf<F> sum[kRows][kVectors];
        for (uint64_t k = 0; k < kRows; ++k)
          for (uint64_t v = 0; v < kVectors; ++v)
            sum[k][v] = vectorAt<F>(out + k * kStrip + v * kDoublesOf<F>);
        const double *factors = a + indexInTile(0, r), *row = b + strip * kStripSize + column;
        for (uint64_t i = 0; i < kTile; ++i, factors += kStrip, row += kStrip)
          for (uint64_t v = 0; v < kVectors; ++v) {
            const DoubleOf<F> x = vectorAt<F>(row + v * kDoublesOf<F>);
            for (uint64_t k = 0; k < kRows; ++k)
              sum[k][v] -= x * factors[k];
          }
        for (uint64_t k = 0; k < kRows; ++k)
          for (uint64_t v = 0; v < kVectors; ++v)
            vectorAt<F>(out + k * kStrip + v * kDoublesOf<F>) = sum[k][v];
      }
}

MOEPLAN_BY_INSTRUCTION_SET(factorTile, (double *a), (a), factorTileBy<F>(a))
MOEPLAN_BY_INSTRUCTION_SET(solveTile, (double *a, const double *r), (a, r), solveTileBy<F>(a, r))
MOEPLAN_BY_INSTRUCTION_SET(updateTile, (double *c, const double *a, const double *b), (c, a, b),
                           updateTileBy<F>(c, a, b))

/// visit(0) .. visit(count - 1), on all threads.
void forEach(uint64_t count, llvm::ThreadPoolInterface &threads,
             llvm::function_ref<void(uint64_t)> visit) {
  std::atomic<uint64_t> next{0};
  auto work = [&] {
    for (uint64_t index; (index = next.fetch_add(1)) < count;)
      visit(index);
  };
  llvm::ThreadPoolTaskGroup group(threads);
  for (uint64_t i = 1, n = std::min<uint64_t>(threads.getMaxConcurrency(), count); i < n; ++i)
    group.async(work);
  work();
  group.wait();
}

/// Row and column of the `index`-th tile on or above the diagonal, column after column.
std::pair<uint64_t, uint64_t> tileAt(uint64_t index) {
  auto column = uint64_t((std::sqrt(8.0 * double(index) + 1) - 1) / 2);
  return {index - column * (column + 1) / 2, column};
}

/// In reverse order: factoring from the first row then is N from its last column.
void load(const OrderedMatrix &matrix, TileTriangle &out, llvm::ThreadPoolInterface &threads) {
  const uint64_t n = matrix.size;
  forEach(out.tiles() * (out.tiles() + 1) / 2, threads, [&](uint64_t index) {
    const auto [row, column] = tileAt(index);
    double *tile = out.tile(row, column);
    for (uint64_t i = 0; i < kTile; ++i)
      for (uint64_t j = 0; j < kTile; ++j) {
        const uint64_t u = row * kTile + i, v = column * kTile + j;
        tile[indexInTile(i, j)] = u < n && v < n ? matrix.at(n - 1 - u, n - 1 - v) : double(u == v);
      }
  });
}

/// A = R^T R, in place.
void factor(TileTriangle &a, llvm::ThreadPoolInterface &threads) {
  for (uint64_t p = 0; p < a.tiles(); ++p) {
    factorTile(a.tile(p, p));
    const uint64_t rest = a.tiles() - p - 1;
    forEach(rest, threads,
            [&](uint64_t index) { solveTile(a.tile(p, p + 1 + index), a.tile(p, p)); });
    forEach(rest * (rest + 1) / 2, threads, [&](uint64_t index) {
      const auto [row, column] = tileAt(index);
      updateTile(a.tile(p + 1 + row, p + 1 + column), a.tile(p, p + 1 + row),
                 a.tile(p, p + 1 + column));
    });
  }
}

} // namespace

std::vector<float> moeplan::compiler::feedbackFactor(const OrderedMatrix &matrix,
                                                     llvm::ThreadPoolInterface &threads) {
  const uint64_t n = matrix.size;
  // With J the reversal and J A J = R^T R, A = (J R^T J)(J R^T J)^T; the columns of the first
  // factor divided by their diagonal are N: N[i][j] = R[n-1-j][n-1-i] / R[n-1-j][n-1-j].
  TileTriangle r(n);
  load(matrix, r, threads);
  factor(r, threads);
  std::vector<float> out(feedbackOffset(n, n));
  forEach(r.tiles() * (kTile / kStrip), threads, [&](uint64_t strip) {
    const uint64_t begin = strip * kStrip, end = std::min(begin + kStrip, n);
    for (uint64_t u = 0; u < end; ++u) {
      const double pivot = r.tile(u / kTile, u / kTile)[indexInTile(u % kTile, u % kTile)];
      const double *row = r.tile(u / kTile, begin / kTile) + indexInTile(u % kTile, begin % kTile);
      for (uint64_t v = std::max(begin, u + 1); v < end; ++v) {
        const uint64_t i = n - 1 - v, j = n - 1 - u;
        out[feedbackOffset(n, i) + j - i - 1] = float(row[v - begin] / pivot);
      }
    }
  });
  return out;
}
