// The CUDA side of a compilation: its targets, and the kernels for them.
#pragma once

#include "compiler/codegen/cuda_library.h"
#include "compiler/driver/cuda_report.h"

#include "llvm/Support/Error.h"

#include <memory>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// max_tokens of the programs for devices, ascending.
llvm::ArrayRef<int64_t> cudaProgramTokens();

CudaReport cudaReportOf(llvm::ArrayRef<KernelSpec> kernels, llvm::ArrayRef<CudaLibrary> libraries);
/// What a compilation does for CUDA devices; nothing without targets.
class CudaCompilation {
public:
  /// Takes the targets of a policy or a command line, "sm_80" each, which may repeat. Where
  /// `makesCode`, NVRTC is opened and asked whether it knows them.
  llvm::Error choose(llvm::ArrayRef<std::string> targets, bool makesCode);

  const std::vector<std::string> &targets() const { return targets_; }
  /// "13.0"; empty where no code is made.
  std::string nvrtcVersion() const { return nvrtc_ ? nvrtc_->version() : ""; }
  /// max_tokens of the programs for devices; empty without targets.
  llvm::ArrayRef<int64_t> programTokens() const;
  /// Libraries for every target, and PTX for those to come; empty without targets.
  llvm::Expected<std::vector<CudaLibrary>> compile(llvm::ArrayRef<KernelSpec> kernels,
                                                   BuildCache &cache) const;

private:
  std::vector<std::string> targets_;
  std::unique_ptr<Nvrtc> nvrtc_;
};

} // namespace moeplan::compiler
