// What the kernel libraries of an artifact hold: kernels of one machine for one target of it.
#pragma once

#include "moeplan_generated.h"
#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace moeplan {

/// The `target_cpu` of a library for CUDA devices.
struct CudaTarget {
  unsigned capability = 0; ///< 90 of "sm_90"
  /// "sm_90a": runs on that capability alone. Otherwise cubins run on later ones of the same tens,
  /// PTX on all later ones.
  bool isSpecific = false;
  bool isPtx = false; ///< "compute_90"
};
/// Nothing where `name` is not such a target.
std::optional<CudaTarget> cudaTargetOf(std::string_view name);

/// Whether the artifact has kernels of `machine`.
bool hasKernelsOf(const fb::Artifact &artifact, fb::Machine machine);

/// MOEPLAN_CORRUPT or MOEPLAN_UNSUPPORTED where a library is not what its machine's libraries are,
/// or a cuda kernel cannot be launched as it says. Every segment has been checked before.
Status checkKernelLibraries(const fb::Artifact &artifact);

/// How a cuda kernel is launched; what its constants say, which checkKernelLibraries() has checked.
struct CudaLaunch {
  uint32_t threads = 0;     ///< of a block
  uint32_t sharedBytes = 0; ///< of dynamic shared memory
};
CudaLaunch cudaLaunchOf(const fb::Kernel &kernel);

/// Where images begin in a library for CUDA devices, and the limits of what launches them.
inline constexpr uint64_t kImageAlignment = 16;
inline constexpr int64_t kMaxThreads = 1024, kMaxSharedBytes = 227 * 1024;

/// The image of each kernel in `code`, the segment of a checked cuda library as Artifact::load()
/// gives it: parallel to Artifact.kernels, empty for kernels of other machines. PTX includes its
/// zero byte. MOEPLAN_CORRUPT where PTX does not end with one.
Result<std::vector<std::span<const std::byte>>> kernelImages(const fb::Artifact &artifact,
                                                             const fb::KernelLibrary &library,
                                                             std::span<const std::byte> code);

} // namespace moeplan
