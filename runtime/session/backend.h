// What the sessions of an artifact on a device have in common.
#pragma once

#include "kernel_abi.h"
#include "runtime/artifact/artifact.h"
#include "runtime/device/cuda/kernels.h"
#include "runtime/device/device.h"
#include "runtime/device/kernel_module.h"
#include "runtime/residency/residency.h"
#include "runtime/support/status.h"

#include <memory>
#include <string>
#include <vector>

namespace moeplan {

/// May be used from any number of threads. Borrows the artifact.
class Backend : public std::enable_shared_from_this<Backend> {
public:
  /// Loads the kernels for this CPU. `device` as Device::create() takes it. Errors:
  /// MOEPLAN_UNSUPPORTED where the artifact has none for it.
  static Result<std::shared_ptr<Backend>> create(const Artifact &artifact, std::string_view device);

  const Artifact &artifact() const { return artifact_; }
  Device &device() { return *device_; }
  Residency &residency() { return residency_; }
  /// By their index in the artifact; null for kernels of other machines.
  const std::vector<moeplan_kernel_fn> &kernels() const { return kernels_; }
  /// Null where the device is no cuda device.
  CudaKernels *cudaKernels() { return cudaKernels_.get(); }
  /// The CPU, or the architecture of GPUs, that the kernels in use were compiled for.
  const std::string &targetCpu() const { return targetCpu_; }

private:
  Backend(const Artifact &artifact, std::unique_ptr<Device> device)
      : artifact_(artifact), device_(std::move(device)), residency_(artifact, *device_) {}
  Status loadKernels();

  const Artifact &artifact_;
  std::unique_ptr<Device> device_;
  Residency residency_;
  std::string targetCpu_;
  std::unique_ptr<KernelModule> module_;
  std::vector<moeplan_kernel_fn> kernels_;
  std::unique_ptr<CudaKernels> cudaKernels_;
};

} // namespace moeplan
