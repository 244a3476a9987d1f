#include "runtime/device/cuda/kernels.h"

#include "runtime/artifact/kernel_libraries.h"
#include "runtime/support/fault.h"

#include <tuple>

namespace moeplan {

Result<const fb::KernelLibrary *> chooseCudaLibrary(const fb::Artifact &artifact,
                                                    unsigned capability) {
  const fb::KernelLibrary *best = nullptr;
  std::tuple<bool, unsigned, bool> bestRank; // cubin before PTX, the latest, the most specific
  std::string targets;
  for (const fb::KernelLibrary *library : *artifact.libraries()) {
    if (library->machine() != fb::Machine::cuda)
      continue;
    targets += (targets.empty() ? "" : ", ") + library->target_cpu()->str();
    const auto target = cudaTargetOf(library->target_cpu()->string_view());
    if (!target || target->capability > capability ||
        (target->isSpecific && target->capability != capability) ||
        (!target->isPtx && target->capability / 10 != capability / 10))
      continue;
    const std::tuple rank(!target->isPtx, target->capability, target->isSpecific);
    if (!best || rank > bestRank) {
      best = library;
      bestRank = rank;
    }
  }
  if (!best)
    return unsupported(
        targets.empty()
            ? "the artifact has no kernels for CUDA devices; compile it with --target-cuda"
            : "no kernels for a device of compute capability " + std::to_string(capability / 10) +
                  "." + std::to_string(capability % 10) + "; the artifact has " + targets);
  return best;
}

Result<std::unique_ptr<CudaKernels>> CudaKernels::create(const Artifact &artifact,
                                                         CudaDevice &device) {
  std::unique_ptr<CudaKernels> kernels(new CudaKernels(artifact, device));
  MOEPLAN_ASSIGN(const fb::KernelLibrary *library,
                 chooseCudaLibrary(artifact.metadata(), device.capability()));
  kernels->target_ = library->target_cpu()->str();
  MOEPLAN_ASSIGN(kernels->code_, artifact.load(library->segment()));
  MOEPLAN_ASSIGN(kernels->images_, kernelImages(artifact.metadata(), *library, kernels->code_));
  kernels->loaded_.resize(kernels->images_.size());
  return kernels;
}

CudaKernels::~CudaKernels() {
  if (device_.use().ok())
    for (const Loaded &loaded : loaded_)
      if (loaded.module)
        device_.driver().moduleUnload(loaded.module);
}

Result<cuda::Function> CudaKernels::function(uint32_t index) {
  const std::lock_guard lock(mutex_);
  Loaded &loaded = loaded_[index];
  if (loaded.function)
    return loaded.function;
  if (faultAt(FaultPoint::kernelLoad))
    return unsupported("cannot load kernels: injected");
  const cuda::Driver &driver = device_.driver();
  const fb::Kernel &kernel = *artifact_.metadata().kernels()->Get(index);
  const std::string symbol = kernel.symbol()->str();
  auto load = [&]() -> Status {
    MOEPLAN_TRY(device_.use());
    if (!loaded.module)
      MOEPLAN_CUDA(driver, moduleLoadData, &loaded.module, images_[index].data());
    cuda::Function function = nullptr;
    MOEPLAN_CUDA(driver, moduleGetFunction, &function, loaded.module, symbol.c_str());
    constexpr uint32_t kWithoutAsking = 48 << 10; // bytes of shared memory
    const uint32_t sharedBytes = cudaLaunchOf(kernel).sharedBytes;
    if (sharedBytes > kWithoutAsking)
      MOEPLAN_CUDA(driver, functionSetAttribute, function, cuda::kFunctionMaxDynamicSharedBytes,
                   int(sharedBytes));
    loaded.function = function;
    return {};
  };
  MOEPLAN_TRY(load().withContext("kernel '" + symbol + "' for " + target_));
  return loaded.function;
}

} // namespace moeplan
