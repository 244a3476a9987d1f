#include "compiler/driver/cuda.h"

#include "runtime/artifact/kernel_libraries.h"

#include "llvm/ADT/STLExtras.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Programs of up to as many tokens are for decoding, of one sequence or of several.
constexpr int64_t kMaxDecodeTokens = 8;
constexpr int64_t kProgramTokens[] = {1, kMaxDecodeTokens, 64, 512};

bool isDecode(const KernelSpec &kernel) {
  if (kernel.implementation == "generate_weight") // runs before anything is decoded
    return false;
  for (const auto &[name, value] : kernel.constants)
    if (name == "max_tokens")
      return std::get<int64_t>(value) <= kMaxDecodeTokens;
  return true; // for any number of tokens
}

} // namespace

Error CudaCompilation::choose(ArrayRef<std::string> targets, bool makesCode) {
  for (const std::string &target : targets) {
    const std::optional<CudaTarget> parsed = cudaTargetOf(target);
    if (!parsed || parsed->isPtx)
      return createStringError(
          "unknown CUDA target '" + target +
          "' (as 'sm_80', 'sm_90a'; see moeplanc compile --list-cuda-targets)");
    if (!is_contained(targets_, target))
      targets_.push_back(target);
  }
  if (targets_.empty() || !makesCode)
    return Error::success();
  auto nvrtc = Nvrtc::open();
  if (!nvrtc)
    return createStringError("CUDA targets: " + toString(nvrtc.takeError()));
  for (const std::string &target : targets_)
    if (Error error = (*nvrtc)->checkTarget(target))
      return error;
  nvrtc_ = std::move(*nvrtc);
  return Error::success();
}

ArrayRef<int64_t> moeplan::compiler::cudaProgramTokens() { return kProgramTokens; }

ArrayRef<int64_t> CudaCompilation::programTokens() const {
  return targets_.empty() ? ArrayRef<int64_t>() : ArrayRef(kProgramTokens);
}

Expected<std::vector<CudaLibrary>> CudaCompilation::compile(ArrayRef<KernelSpec> kernels,
                                                            BuildCache &cache) const {
  if (!nvrtc_)
    return std::vector<CudaLibrary>();
  CudaOptions options;
  options.headers = cudaHeaders();
  options.cache = &cache;
  return compileCudaKernels(*nvrtc_, kernels, withPtx(targets_), options);
}

CudaReport moeplan::compiler::cudaReportOf(ArrayRef<KernelSpec> kernels,
                                           ArrayRef<CudaLibrary> libraries) {
  CudaReport report;
  for (const CudaLibrary &library : libraries)
    report.targets.push_back(library.target);
  if (libraries.empty())
    return report;
  for (auto [index, kernel] : enumerate(kernels)) {
    if (kernel.machine != Machine::Cuda)
      continue;
    CudaReport::Kernel &row = report.kernels.emplace_back();
    row.symbol = kernel.symbol;
    row.implementation = kernel.implementation;
    row.isDecode = isDecode(kernel);
    for (const CudaLibrary &library : libraries) {
      row.imageBytes.push_back(library.codeBytes[index]);
      row.resources.push_back(library.resources[index]);
    }
  }
  return report;
}

Expected<std::string> moeplan::compiler::listCudaTargets() {
  auto nvrtc = Nvrtc::open();
  if (!nvrtc)
    return nvrtc.takeError();
  std::string text;
  for (int capability : (*nvrtc)->capabilities()) {
    const std::string name = "sm_" + std::to_string(capability);
    text += name + "\n";
    if (!errorToBool((*nvrtc)->checkTarget(name + "a")))
      text += name + "a\n";
  }
  return text;
}
