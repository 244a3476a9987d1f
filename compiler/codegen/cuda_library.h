// From kernel templates in CUDA C++ and constants to machine code for devices.
#pragma once

#include "compiler/codegen/kernel_library.h"
#include "compiler/codegen/kernel_resources.h"
#include "compiler/codegen/nvrtc.h"

namespace moeplan::compiler {

/// The images of all CUDA kernels for one target, as a segment of an artifact holds them.
struct CudaLibrary {
  std::string target;              ///< "sm_90a", or "compute_90" for PTX
  std::string code;                ///< images at multiples of 16 bytes, in the order of the kernels
  std::vector<uint32_t> codeBytes; ///< of each kernel's image, 0 for kernels of CPUs
  std::vector<KernelResources> resources; ///< parallel to codeBytes
};

/// "sm_80", "sm_90a" -> with "compute_90" behind them: PTX of the newest, for devices to come.
std::vector<std::string> withPtx(llvm::ArrayRef<std::string> targets);

/// The CUDA C++ that stands for one kernel: its constants as a type, and its entry point.
std::string cudaSourceOf(const KernelSpec &kernel);

struct CudaOptions {
  llvm::ArrayRef<CudaHeader> headers; ///< as cudaHeaders()
  unsigned threads = 0;               ///< 0: all cores
  BuildCache *cache = nullptr;        ///< of images; borrowed, may be null
};

/// Compiles every kernel of CUDA among `kernels` for each of `targets`, side by side. The bytes
/// depend on the arguments and on NVRTC's version alone. An error names kernel and target.
llvm::Expected<std::vector<CudaLibrary>> compileCudaKernels(const Nvrtc &nvrtc,
                                                            llvm::ArrayRef<KernelSpec> kernels,
                                                            llvm::ArrayRef<std::string> targets,
                                                            const CudaOptions &options);

} // namespace moeplan::compiler
