#include "runtime/tools/profile_fit.h"

#include <algorithm>
#include <cmath>

namespace moeplan::tools {
namespace {

/// Names of unknowns, and rows in which each has a coefficient.
class System {
public:
  /// The equation: coefficients times unknowns = `seconds`. Divided by it, so that all deviations
  /// are relative.
  void add(const std::map<std::string, double> &coefficients, double seconds) {
    if (!(seconds > 0))
      return;
    std::vector<double> row(names_.size());
    for (const auto &[name, coefficient] : coefficients) {
      const auto [entry, isNew] = index_.try_emplace(name, names_.size());
      if (isNew) {
        names_.push_back(name);
        row.push_back(0);
      }
      row[entry->second] = coefficient / seconds;
    }
    rows_.push_back(std::move(row));
  }

  std::map<std::string, double> solve() {
    for (std::vector<double> &row : rows_)
      row.resize(names_.size());
    const std::vector<double> solution = nonNegativeLeastSquares(rows_);
    std::map<std::string, double> values;
    for (size_t i = 0; i < names_.size(); ++i)
      values[names_[i]] = solution[i];
    return values;
  }

private:
  std::vector<std::string> names_;
  std::map<std::string, size_t> index_;
  std::vector<std::vector<double>> rows_;
};

double cachedShare(const FitInput &input, const DecodeSample &sample) {
  return sample.heldBytes > 0 ? std::min(1.0, input.cacheBytes / sample.heldBytes) : 1;
}

/// The rate of a time per unit; 0 where the fit makes nothing of it.
double rateOf(double secondsPerUnit) { return secondsPerUnit > 0 ? 1 / secondsPerUnit : 0; }

double secondsAt(double amount, double rate) { return rate > 0 ? amount / rate : 0; }

void fitDecode(const FitInput &input, Fit &fit) {
  System system;
  for (const DecodeSample &sample : input.decode) {
    const double cached = cachedShare(input, sample);
    std::map<std::string, double> coefficients = {
        {"token", 1}, {"layer", sample.layers}, {"kv", sample.kvBytes}};
    for (const auto &[width, bytes] : sample.matrixBytes) {
      coefficients["cached " + width] = cached * bytes;
      coefficients["memory " + width] = (1 - cached) * bytes;
    }
    system.add(coefficients,
               sample.seconds - secondsAt(sample.vectorBytes, input.readBytesPerSecond));
  }
  std::map<std::string, double> found = system.solve();
  fit.tokenSeconds = found["token"];
  fit.layerSeconds = found["layer"];
  fit.kvBytesPerSecond = rateOf(found["kv"]);
  for (const DecodeSample &sample : input.decode)
    for (const auto &[width, bytes] : sample.matrixBytes) {
      KernelFit &kernel = fit.kernels[width];
      kernel.decodeCachedBytesPerSecond = rateOf(found["cached " + width]);
      kernel.decodeBytesPerSecond = rateOf(found["memory " + width]);
      // The profile has a rate of memory always: without a sample, or where it is lost in noise,
      // what was read from the cache stands for it, and memory's bandwidth above all.
      if (kernel.decodeBytesPerSecond == 0)
        kernel.decodeBytesPerSecond =
            kernel.decodeCachedBytesPerSecond > 0
                ? std::min(kernel.decodeCachedBytesPerSecond, input.readBytesPerSecond)
                : input.readBytesPerSecond;
    }
}

void fitPrefill(const FitInput &input, Fit &fit) {
  System system;
  for (const PrefillSample &sample : input.prefill) {
    std::map<std::string, double> coefficients = {{"layer", sample.layers}};
    for (const auto &[width, operations] : sample.operations)
      coefficients[width] = operations;
    system.add(coefficients, sample.seconds);
  }
  std::map<std::string, double> found = system.solve();
  fit.prefillLayerSeconds = found["layer"];
  for (auto &[width, kernel] : fit.kernels)
    kernel.prefillOperationsPerSecond = rateOf(found[width]);
}

} // namespace

std::vector<double> nonNegativeLeastSquares(const std::vector<std::vector<double>> &rows) {
  const size_t count = rows.empty() ? 0 : rows.front().size();
  // Columns of length 1: units then do not matter.
  std::vector<double> lengths(count);
  for (const std::vector<double> &row : rows)
    for (size_t i = 0; i < count; ++i)
      lengths[i] += row[i] * row[i];
  for (double &length : lengths)
    length = std::sqrt(length);
  std::vector<double> gram(count * count), target(count), solution(count);
  for (const std::vector<double> &row : rows)
    for (size_t i = 0; i < count; ++i) {
      if (lengths[i] == 0)
        continue;
      target[i] += row[i] / lengths[i];
      for (size_t j = 0; j < count; ++j)
        if (lengths[j] > 0)
          gram[i * count + j] += row[i] / lengths[i] * row[j] / lengths[j];
    }
  // Coordinate descent: convex, so it ends at the minimum. Some dozens of unknowns at most.
  constexpr int mostSweeps = 100000;
  for (int sweep = 0; sweep < mostSweeps; ++sweep) {
    double change = 0;
    for (size_t i = 0; i < count; ++i) {
      if (lengths[i] == 0)
        continue;
      double residual = target[i];
      for (size_t j = 0; j < count; ++j)
        residual -= gram[i * count + j] * solution[j];
      const double next = std::max(0.0, solution[i] + residual);
      change = std::max(change, std::abs(next - solution[i]));
      solution[i] = next;
    }
    if (change < 1e-13)
      break;
  }
  for (size_t i = 0; i < count; ++i)
    solution[i] = lengths[i] > 0 ? solution[i] / lengths[i] : 0;
  return solution;
}

double decodeSeconds(const Fit &fit, const FitInput &input, const DecodeSample &sample) {
  double seconds = fit.tokenSeconds + sample.layers * fit.layerSeconds +
                   secondsAt(sample.kvBytes, fit.kvBytesPerSecond) +
                   secondsAt(sample.vectorBytes, input.readBytesPerSecond);
  const double cached = cachedShare(input, sample);
  for (const auto &[width, bytes] : sample.matrixBytes)
    if (const auto kernel = fit.kernels.find(width); kernel != fit.kernels.end())
      seconds += secondsAt(cached * bytes, kernel->second.decodeCachedBytesPerSecond) +
                 secondsAt((1 - cached) * bytes, kernel->second.decodeBytesPerSecond);
  return seconds;
}

Fit fitProfile(const FitInput &input) {
  Fit fit;
  fitDecode(input, fit);
  fitPrefill(input, fit);
  return fit;
}

} // namespace moeplan::tools
