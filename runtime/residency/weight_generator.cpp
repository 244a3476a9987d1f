#include "runtime/residency/weight_generator.h"

#include "kernel_abi.h"
#include "runtime/artifact/kernel_libraries.h"

#include <cstring>
#include <utility>

namespace moeplan {

namespace {

/// Enough to fill a large device; each takes its share of the weight.
constexpr unsigned kBlocks = 1024;

cuda::Pointer addressOf(const std::byte *pointer) { return reinterpret_cast<uintptr_t>(pointer); }

} // namespace

Result<std::unique_ptr<WeightGenerator>>
WeightGenerator::create(const Artifact &artifact, CudaKernels &kernels, CudaDevice &device) {
  const auto &all = *artifact.metadata().kernels();
  for (uint32_t i = 0; i < all.size(); ++i) {
    const fb::Kernel &kernel = *all.Get(i);
    if (kernel.machine() != fb::Machine::cuda || kernel.binding_count() != 1 ||
        kernel.implementation()->string_view() != "generate_weight")
      continue;
    std::unique_ptr<WeightGenerator> made(new WeightGenerator(artifact, device));
    MOEPLAN_ASSIGN(made->function_, kernels.function(i));
    made->threads_ = cudaLaunchOf(kernel).threads;
    MOEPLAN_ASSIGN(made->job_, device.allocatePinned(sizeof(moeplan_synthetic_copy)));
    return made;
  }
  return std::unique_ptr<WeightGenerator>();
}

Status WeightGenerator::generate(uint32_t segment, std::byte *target) {
  const std::span<const std::byte> pool = artifact_.generationPool(segment);
  MOEPLAN_ASSIGN(const DeviceMemory onDevice, device_.allocate(pool.size(), "random numbers"));
  MOEPLAN_ASSIGN(const Device::Transfer transfer,
                 device_.beginCopy(onDevice.data(), pool.data(), pool.size()));
  moeplan_synthetic_copy job = artifact_.generationOf(segment);
  job.pool = reinterpret_cast<const char *>(onDevice.data());
  job.target = reinterpret_cast<char *>(target);
  std::memcpy(job_.data(), &job, sizeof(job));
  MOEPLAN_TRY(device_.finish(transfer));
  cuda::Pointer step = 0, copy = addressOf(job_.onDevice());
  void *parameters[] = {&step, &copy};
  return device_.run(function_, kBlocks, threads_, parameters);
}

} // namespace moeplan
