// Synthetic weights that a cuda device makes itself.
#pragma once

#include "runtime/artifact/artifact.h"
#include "runtime/device/cuda/cuda_device.h"
#include "runtime/device/cuda/kernels.h"
#include "runtime/support/status.h"

#include <memory>

namespace moeplan {

/// Runs the artifact's kernel that generates weights. Used by one thread at a time. Borrows all.
class WeightGenerator {
public:
  /// Null where the artifact has no such kernel. Errors: those of the driver.
  static Result<std::unique_ptr<WeightGenerator>> create(const Artifact &artifact,
                                                         CudaKernels &kernels, CudaDevice &device);

  /// Makes the bytes of a synthetic weight at `target` in the device's memory, of which it takes
  /// some hundred KiB meanwhile. Errors: MOEPLAN_RESOURCE_EXHAUSTED, those of the driver.
  Status generate(uint32_t segment, std::byte *target);

private:
  WeightGenerator(const Artifact &artifact, CudaDevice &device)
      : artifact_(artifact), device_(device) {}

  const Artifact &artifact_;
  CudaDevice &device_;
  cuda::Function function_ = nullptr;
  uint32_t threads_ = 0;
  PinnedMemory job_; ///< moeplan_synthetic_copy
};

} // namespace moeplan
