// Searches the compile-time parameters of the CPU kernels on this machine.
#pragma once

#include "compiler/codegen/cpu_target.h"
#include "compiler/transforms/kernel_tuning.h"

#include "kernel_abi.h"

#include <functional>
#include <vector>

namespace moeplan::compiler {

struct TuneOptions {
  /// Weights of these formats are multiplied in the shape of an expert's gate.
  std::vector<moeplan_format> formats;
  int64_t hiddenSize = 0, intermediateSize = 0;
  unsigned threads = 0; ///< 0: physical cores
  /// Called with trials done so far and in all; may be empty.
  std::function<void(uint64_t, uint64_t)> progress;
};

/// Runs decoding products with every candidate on weights that no cache holds, all candidates once
/// per round, so that whatever else the machine does hits them alike. A candidate replaces a
/// default only where the median of its gain over the rounds exceeds the noise. Takes some seconds
/// and 256 MiB. Errors: a target that this machine cannot run.
llvm::Expected<KernelTuning> tuneKernels(const TuneOptions &options, const CpuTarget &target);

} // namespace moeplan::compiler
