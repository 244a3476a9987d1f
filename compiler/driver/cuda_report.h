// What is to be said of CUDA kernels once they are compiled.
#pragma once

#include "compiler/codegen/kernel_resources.h"

#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <string>
#include <vector>

namespace moeplan::compiler {

/// What every kernel takes on every target that ptxas was asked about.
struct CudaReport {
  struct Kernel {
    std::string symbol, implementation;
    bool isDecode = false;                  ///< for up to 8 tokens
    std::vector<uint32_t> imageBytes;       ///< by target
    std::vector<KernelResources> resources; ///< by target
  };
  std::vector<std::string> targets; ///< PTX last
  std::vector<Kernel> kernels;
};

/// A row per kernel: registers, shared memory and spills for each target.
std::string printCuda(const CudaReport &report);
/// The attribute "cuda" of a report's JSON.
void writeCuda(llvm::json::OStream &out, const CudaReport &report);
/// A line for each kernel of decoding that keeps registers in memory: it will be slow.
std::vector<std::string> spillWarnings(const CudaReport &report);

/// Lines of architectures that NVRTC compiles for; an error where there is no NVRTC.
llvm::Expected<std::string> listCudaTargets();

} // namespace moeplan::compiler
