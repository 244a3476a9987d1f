#include "compiler/codegen/cpu_target.h"

#include "runtime/device/cpu_features.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/TargetParser/Host.h"
#include "llvm/TargetParser/Triple.h"
#include "llvm/TargetParser/X86TargetParser.h"

#include <algorithm>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

Error unknownCpu(StringRef request) {
  SmallVector<StringRef> known;
  X86::fillValidCPUArchList(known, /*Only64Bit=*/true);
  auto nearest = std::min_element(known.begin(), known.end(), [&](StringRef a, StringRef b) {
    return request.edit_distance(a) < request.edit_distance(b);
  });
  return createStringError("unknown target CPU '" + request + "' (nearest known: '" + *nearest +
                           "'; 'host' is this machine's)");
}

} // namespace

Expected<CpuTarget> moeplan::compiler::resolveCpuTarget(StringRef request) {
  CpuTarget target;
  target.triple = sys::getDefaultTargetTriple();
  bool host = request == "host";
  target.cpu = host ? sys::getHostCPUName().str() : request.str();

  if (Triple(target.triple).getArch() != Triple::x86_64) {
    // Elsewhere only the baseline of the architecture, which needs no detection.
    if (!host && request != "generic")
      return createStringError("on " + target.triple + " the target CPU is 'host' or 'generic'");
    target.cpu = "generic";
    target.kernels = std::end(kCpuKernelBitcodes) - 1;
    return target;
  }
  if (X86::parseArchX86(target.cpu, /*Only64Bit=*/true) == X86::CK_None)
    return unknownCpu(request);

  std::vector<std::string> switches;
  auto consider = [&](StringRef feature, bool enabled) {
    bool usable = enabled && isKnownCpuFeature(feature.str());
    if (usable)
      target.features.push_back(feature.str());
    switches.push_back((usable ? "+" : "-") + feature.str());
  };
  if (host) {
    // A virtual machine may hide extensions that the CPU's name implies.
    for (const auto &feature : sys::getHostCPUFeatures())
      consider(feature.getKey(), feature.getValue());
  } else {
    SmallVector<StringRef> named;
    X86::getFeaturesForCPU(target.cpu, named);
    // The table names AVX2 for x86-64-v3 and leaves AVX to be concluded from it.
    StringMap<bool> features;
    for (StringRef feature : named) {
      features[feature] = true;
      X86::updateImpliedFeatures(feature, /*Enabled=*/true, features);
    }
    for (const auto &feature : features)
      consider(feature.getKey(), feature.getValue());
  }
  sort(target.features);
  sort(switches);
  target.llvmFeatures = join(switches.begin(), switches.end(), ",");

  target.kernels = find_if(kCpuKernelBitcodes, [&](const CpuKernelBitcode &kernels) {
    return kernels.runsOn(
        [&](StringRef feature) { return is_contained(target.features, feature); });
  });
  return target;
}
