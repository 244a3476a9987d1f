#include "runtime/artifact/kernel_libraries.h"

#include "runtime/artifact/kernel_formats.h"

#include <algorithm>
#include <charconv>
#include <string>

namespace moeplan {

namespace {

Status checkConstant(const char *name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most)
    return corrupt(std::string(name) + " is " + std::to_string(value));
  return {};
}

/// What a cuda kernel says of its launch.
Status checkLaunch(const fb::Kernel &kernel) {
  MOEPLAN_TRY(
      checkConstant("threads", integerConstant(kernel, "threads").value_or(0), 1, kMaxThreads));
  return checkConstant("shared_bytes", integerConstant(kernel, "shared_bytes").value_or(0), 0,
                       kMaxSharedBytes);
}

uint64_t alignedToImage(uint64_t offset) {
  return (offset + kImageAlignment - 1) / kImageAlignment * kImageAlignment;
}

/// That the images are all that is in the segment.
Status checkImages(const fb::Artifact &artifact, const fb::KernelLibrary &library) {
  if (!cudaTargetOf(library.target_cpu()->string_view()))
    return corrupt("is for no CUDA target");
  uint64_t end = 0;
  for (const uint32_t bytes : *library.code_bytes())
    if (bytes > 0)
      end = alignedToImage(end) + bytes;
  const uint64_t stated = artifact.segments()->Get(library.segment())->extent()->bytes();
  if (end != stated)
    return corrupt("has images of " + std::to_string(end) + " bytes in a segment of " +
                   std::to_string(stated));
  return {};
}

Status checkLibrary(const fb::Artifact &artifact, const fb::KernelLibrary &library) {
  const auto *segments = artifact.segments();
  if (library.segment() >= segments->size() ||
      segments->Get(library.segment())->kind() != fb::SegmentKind::code)
    return corrupt("a kernel library is not a code segment");
  if (library.code_bytes()->size() != artifact.kernels()->size())
    return corrupt("a kernel library does not have all kernels");
  if (library.machine() > fb::Machine::MAX)
    return corrupt("a kernel library is for an unknown machine");
  const std::string context = "the kernel library for " + library.target_cpu()->str();
  for (uint32_t i = 0; i < library.code_bytes()->size(); ++i) {
    const fb::Kernel &kernel = *artifact.kernels()->Get(i);
    const bool has = library.code_bytes()->Get(i) != 0;
    if (kernel.machine() == library.machine() && !has)
      return unsupported(context + " has no code for kernel '" + kernel.symbol()->str() + "'");
    if (kernel.machine() != library.machine() && has)
      return corrupt(context + " has code for kernel '" + kernel.symbol()->str() +
                     "' of another machine");
  }
  return library.machine() == fb::Machine::cuda
             ? checkImages(artifact, library).withContext(context)
             : Status();
}

bool hasLibraryOf(const fb::Artifact &artifact, fb::Machine machine) {
  return std::any_of(
      artifact.libraries()->begin(), artifact.libraries()->end(),
      [&](const fb::KernelLibrary *library) { return library->machine() == machine; });
}

} // namespace

std::optional<CudaTarget> cudaTargetOf(std::string_view name) {
  CudaTarget target;
  target.isPtx = name.starts_with("compute_");
  if (!target.isPtx && !name.starts_with("sm_"))
    return std::nullopt;
  name.remove_prefix(name.find('_') + 1);
  const auto [end, error] =
      std::from_chars(name.data(), name.data() + name.size(), target.capability);
  const std::string_view suffix(end, name.data() + name.size() - end);
  target.isSpecific = suffix == "a";
  if (error != std::errc() || target.capability < 10 || target.capability > 999 ||
      !(suffix.empty() || target.isSpecific))
    return std::nullopt;
  return target;
}

bool hasKernelsOf(const fb::Artifact &artifact, fb::Machine machine) {
  return std::any_of(artifact.kernels()->begin(), artifact.kernels()->end(),
                     [&](const fb::Kernel *kernel) { return kernel->machine() == machine; });
}

Status checkKernelLibraries(const fb::Artifact &artifact) {
  for (const fb::Kernel *kernel : *artifact.kernels()) {
    const std::string context = "kernel '" + kernel->symbol()->str() + "'";
    if (kernel->machine() > fb::Machine::MAX)
      return corrupt(context + ": unknown machine");
    if (kernel->machine() == fb::Machine::cuda)
      MOEPLAN_TRY(checkLaunch(*kernel).withContext(context));
  }
  if (!hasLibraryOf(artifact, fb::Machine::cpu))
    return corrupt("no kernel library");
  if (hasLibraryOf(artifact, fb::Machine::cuda) != hasKernelsOf(artifact, fb::Machine::cuda))
    return corrupt(hasLibraryOf(artifact, fb::Machine::cuda)
                       ? "a kernel library for CUDA devices without kernels"
                       : "kernels for CUDA devices without a kernel library");
  for (const fb::KernelLibrary *library : *artifact.libraries())
    MOEPLAN_TRY(checkLibrary(artifact, *library));
  return {};
}

CudaLaunch cudaLaunchOf(const fb::Kernel &kernel) {
  return {static_cast<uint32_t>(integerConstant(kernel, "threads").value_or(0)),
          static_cast<uint32_t>(integerConstant(kernel, "shared_bytes").value_or(0))};
}

Result<std::vector<std::span<const std::byte>>> kernelImages(const fb::Artifact &artifact,
                                                             const fb::KernelLibrary &library,
                                                             std::span<const std::byte> code) {
  const std::optional<CudaTarget> target = cudaTargetOf(library.target_cpu()->string_view());
  const bool isPtx = target && target->isPtx;
  std::vector<std::span<const std::byte>> images;
  uint64_t end = 0;
  for (uint32_t i = 0; i < library.code_bytes()->size(); ++i) {
    const uint32_t bytes = library.code_bytes()->Get(i);
    const uint64_t begin = bytes > 0 ? alignedToImage(end) : end;
    if (begin > code.size() || bytes > code.size() - begin)
      return corrupt("the kernel library for " + library.target_cpu()->str() + " is cut off");
    images.push_back(bytes > 0 ? code.subspan(begin, bytes) : std::span<const std::byte>());
    if (isPtx && bytes > 0 && images.back().back() != std::byte(0))
      return corrupt("the PTX of kernel '" + artifact.kernels()->Get(i)->symbol()->str() +
                     "' does not end with a zero byte");
    end = begin + bytes;
  }
  return images;
}

} // namespace moeplan
