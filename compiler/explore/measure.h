// Runs the points of a frontier on this machine.
#pragma once

#include "compiler/explore/explore.h"

#include "llvm/Support/Error.h"

namespace moeplan::compiler {

/// Compiles all points, and 16 bits as the reference, as plans of one artifact in the output
/// directory, which is removed again; measures the perplexity of `options.text` and the decode
/// speed at the depth that predictions are for, each point on this machine's CPU, whatever memory
/// its experts are meant for. One set of kernels reads all formats that occur.
llvm::Error measureFrontier(const ExploreOptions &options, Frontier &frontier);

} // namespace moeplan::compiler
