// The cuda kernels of an artifact on a device.
#pragma once

#include "runtime/artifact/artifact.h"
#include "runtime/device/cuda/cuda_device.h"

#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace moeplan {

/// The library of `libraries` that a device of `capability` (90: 9.0) runs best: cubins for it,
/// then cubins for an earlier one of the same generation, then the latest PTX that is not later.
/// Errors: MOEPLAN_UNSUPPORTED, naming the device and what there is.
Result<const fb::KernelLibrary *> chooseCudaLibrary(const fb::Artifact &artifact,
                                                    unsigned capability);

/// May be used from any number of threads. Borrows the artifact and the device.
class CudaKernels {
public:
  /// Chooses the library; images are loaded when they are first wanted.
  static Result<std::unique_ptr<CudaKernels>> create(const Artifact &artifact, CudaDevice &device);
  ~CudaKernels();
  CudaKernels(const CudaKernels &) = delete;
  CudaKernels &operator=(const CudaKernels &) = delete;

  /// "sm_90a".
  const std::string &target() const { return target_; }
  /// Of kernel `index` of the artifact, a cuda kernel. Valid as long as this.
  Result<cuda::Function> function(uint32_t index);

private:
  CudaKernels(const Artifact &artifact, CudaDevice &device)
      : artifact_(artifact), device_(device) {}

  const Artifact &artifact_;
  CudaDevice &device_;
  std::string target_;
  std::vector<std::byte> code_;
  std::vector<std::span<const std::byte>> images_; ///< by kernel
  std::mutex mutex_;
  struct Loaded {
    cuda::Module module = nullptr;
    cuda::Function function = nullptr;
  };
  std::vector<Loaded> loaded_; ///< by kernel
};

} // namespace moeplan
