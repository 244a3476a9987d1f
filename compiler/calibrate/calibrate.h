// Running a model over a text to learn what quantising its experts would cost.
#pragma once

#include "llvm/Support/Error.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace moeplan::compiler {

struct CalibrateOptions {
  std::string checkpoint; ///< directory
  std::string text;       ///< UTF-8 file
  std::string output;     ///< .moestats file
  uint64_t maxTokens = 0; ///< of the text; 0: all
  uint32_t context = 0;   ///< positions of a window, BOS included; 0: the model's, at most 512
  /// Bytes for sums of second moments: decides how much of the Hessian is kept. Held-out
  /// log-probabilities take a quarter as much at most.
  uint64_t memoryLimit = uint64_t(4) << 30;
  /// For sensitivities; names as in policies.
  std::vector<std::string> formats = {"int8g64", "int4g32", "int3g32", "int2g32"};
  bool measure = false; ///< every (expert, linear, format) by swapping it in
  unsigned threads = 0; ///< 0: physical cores
  /// Called with what is done now, how far it is and of how much; may be empty.
  std::function<void(const char *label, uint64_t done, uint64_t total, const char *unit)> progress;
};

struct CalibrateReport {
  uint64_t fileBytes = 0, tokens = 0;
  uint32_t windows = 0, heldOutWindows = 0;
  uint64_t inputBlock = 0, hiddenBlock = 0; ///< columns of a block of moments; 1: diagonals
  std::vector<std::string> hardlyReached;   ///< experts that will be quantised without calibration
};

/// Runs the checkpoint on the CPU runtime over most windows of the text, sums the second moments of
/// every expert's inputs, and predicts what each format costs from the held-out rest. Every tenth
/// window is held out. An artifact of the model's size lies beside the output meanwhile. Errors are
/// single lines for the user.
///
/// The prediction is second order. With dW the error of a linear and H the second moments of its
/// input, quantising adds E = sum_n g_n dw_n H dw_n^T / tokens to the squared output of the layer,
/// where g_n is the squared norm of column n of w2 for rows of w1 and w3 and 1 for w2. The
/// divergence that a layer's error causes is proportional to it where it is small: one probe per
/// layer and kind of linear, with all its experts at 3 bits, gives the factor. The expected
/// increase of the negative log-likelihood is that divergence where the text is as likely as the
/// model thinks.
llvm::Expected<CalibrateReport> calibrate(const CalibrateOptions &options);

} // namespace moeplan::compiler
