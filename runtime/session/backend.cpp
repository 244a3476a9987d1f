#include "runtime/session/backend.h"

#include "runtime/device/cpu_features.h"

#include <cstring>

namespace moeplan {

namespace {

std::vector<std::string> featuresOf(const fb::KernelLibrary &library) {
  std::vector<std::string> features;
  for (const flatbuffers::String *feature : *library.features())
    features.push_back(feature->str());
  return features;
}

constexpr const char *kTriplePrefix =
#if defined(__x86_64__)
    "x86_64";
#elif defined(__aarch64__)
    "aarch64";
#else
    "unknown";
#endif

/// The library that uses most of what this CPU has; the earliest of equals.
Result<const fb::KernelLibrary *> chooseLibrary(const fb::Artifact &metadata) {
  const fb::KernelLibrary *best = nullptr;
  std::string reasons;
  for (const fb::KernelLibrary *library : *metadata.libraries()) {
    if (library->machine() != fb::Machine::cpu)
      continue;
    std::vector<std::string> missing = missingCpuFeatures(featuresOf(*library));
    if (library->triple()->string_view().substr(0, strlen(kTriplePrefix)) != kTriplePrefix)
      missing = {"architecture of " + library->triple()->str()};
    if (missing.empty()) {
      if (!best || library->features()->size() > best->features()->size())
        best = library;
      continue;
    }
    reasons +=
        (reasons.empty() ? "" : "; ") + library->target_cpu()->str() + " needs " + missing[0];
    if (missing.size() > 1)
      reasons += " and " + std::to_string(missing.size() - 1) + " more";
  }
  if (!best)
    return unsupported("no kernels for this CPU: " + reasons);
  return best;
}

} // namespace

Result<std::shared_ptr<Backend>> Backend::create(const Artifact &artifact,
                                                 std::string_view device) {
  MOEPLAN_ASSIGN(std::unique_ptr<Device> created, Device::create(device));
  std::shared_ptr<Backend> backend(new Backend(artifact, std::move(created)));
  MOEPLAN_TRY(backend->loadKernels());
  return backend;
}

Status Backend::loadKernels() {
  const fb::Artifact &metadata = artifact_.metadata();
  MOEPLAN_ASSIGN(const fb::KernelLibrary *library, chooseLibrary(metadata));
  targetCpu_ = library->target_cpu()->str();
  MOEPLAN_ASSIGN(const std::vector<std::byte> elf, artifact_.load(library->segment()));
  MOEPLAN_ASSIGN(module_, KernelModule::load(elf));
  kernels_.reserve(metadata.kernels()->size());
  for (const fb::Kernel *kernel : *metadata.kernels()) {
    if (kernel->machine() != fb::Machine::cpu) {
      kernels_.push_back(nullptr);
      continue;
    }
    MOEPLAN_ASSIGN(moeplan_kernel_fn function, module_->kernel(kernel->symbol()->str()));
    kernels_.push_back(function);
  }
  if (CudaDevice *cuda = device_->cuda()) {
    MOEPLAN_ASSIGN(cudaKernels_, CudaKernels::create(artifact_, *cuda));
    targetCpu_ = cudaKernels_->target();
    if (artifact_.syntheticSeed()) {
      MOEPLAN_ASSIGN(auto generator, WeightGenerator::create(artifact_, *cudaKernels_, *cuda));
      residency_.setGenerator(std::move(generator));
    }
  }
  return {};
}

} // namespace moeplan
