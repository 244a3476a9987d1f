// The sources of kernels/cuda, as NVRTC is given them.
#pragma once

#include <string>
#include <vector>

namespace moeplan::compiler {

/// A header by the name it is included by.
struct CudaHeader {
  std::string name, text;
};

/// Everything that a generated kernel may include, the umbrella "kernels.cuh" among it, unless this
/// build was made without CUDA kernels.
const std::vector<CudaHeader> &cudaHeaders();

} // namespace moeplan::compiler
