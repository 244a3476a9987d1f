// From measured times to the terms of a machine's profile: numbers in, numbers out. The formula is
// that of compiler/profile/profile.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace moeplan::tools {

/// A measured time that the formula of a decode step is to give.
struct DecodeSample {
  std::map<std::string, double> matrixBytes; ///< that a step reads, by width of codes: "int4"
  double vectorBytes = 0;                    ///< float32, read at the memory's rate
  double heldBytes = 0;                      ///< weights of the plan: how much of them is cached
  double kvBytes = 0;                        ///< keys and values that a step reads
  double layers = 0;
  double seconds = 0;
};

/// The same for a prompt token.
struct PrefillSample {
  std::map<std::string, double> operations; ///< by width
  double layers = 0;
  double seconds = 0;
};

struct FitInput {
  double readBytesPerSecond = 0; ///< of memory
  double cacheBytes = 0;         ///< of the last level
  std::vector<DecodeSample> decode;
  std::vector<PrefillSample> prefill;
};

/// A rate of 0 is one that the samples say nothing about.
struct KernelFit {
  double decodeBytesPerSecond = 0;
  double decodeCachedBytesPerSecond = 0;
  double prefillOperationsPerSecond = 0;
};

struct Fit {
  double tokenSeconds = 0, layerSeconds = 0, prefillLayerSeconds = 0;
  double kvBytesPerSecond = 0;
  std::map<std::string, KernelFit> kernels; ///< by width
};

/// The terms, none negative, with the least sum of squares of relative deviations.
Fit fitProfile(const FitInput &input);

/// What the formula gives for `sample`; its `seconds` are not looked at.
double decodeSeconds(const Fit &fit, const FitInput &input, const DecodeSample &sample);

/// x >= 0 with the least |rows * x - 1|^2. Rows are all as long as x. An unknown that no row has
/// is 0.
std::vector<double> nonNegativeLeastSquares(const std::vector<std::vector<double>> &rows);

} // namespace moeplan::tools
