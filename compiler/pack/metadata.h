// The FlatBuffer of an artifact, made from a plan module.
#pragma once

#include "compiler/codegen/cuda_library.h"
#include "compiler/codegen/kernel_library.h"
#include "compiler/planner/placement.h"
#include "compiler/policy/policy.h"
#include "runtime/session/canary_score.h"

#include "mlir/IR/BuiltinOps.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// Recorded in the artifact; nothing in it may depend on where or when it was built.
struct Provenance {
  std::string compilerVersion, llvmVersion;
  std::string checkpointDigest; ///< hex
  std::string policyDigest;     ///< hex, empty without a policy
  std::string commandLine;      ///< without paths
  std::string statisticsDigest; ///< hex, empty without calibration statistics
  std::string profileDigest;    ///< hex, empty without a machine profile
  std::string nvrtcVersion;     ///< empty without kernels for CUDA devices
};

/// What a tier asked for, and what the planner expects of the plan that was made of it.
struct PlanFacts {
  std::optional<Preference> prefer;
  TierLimits limits;
  std::optional<PlacementCosts> costs; ///< absent: the placement was not planned
};

/// Tokens, and what the plans and the 16-bit model make of them. The vectors have their sizes
/// before they are filled in.
struct CanaryFacts {
  std::vector<int32_t> tokens; ///< n + 1
  uint32_t library = 0;        ///< whose kernels it was computed with
  CanaryReferenceData reference;
  std::map<std::string, CanaryScore> scores; ///< by plan; absent: zeros
};

/// What the policy says that the IR does not: a runtime reads it to choose and to guard plans.
struct PolicyFacts {
  std::map<std::string, PlanFacts> plans; ///< by name; a plan may lack them
  uint32_t context = 0, batch = 0;        ///< that the costs were predicted for
  bool hasDevice = false;                 ///< the costs have those of a device
  std::optional<CanaryPolicy> canary;
  std::optional<CanaryFacts> canaryFacts; ///< absent: the canary has no text
  std::optional<SwitchPolicy> switching;
};

/// Where a segment lies: see `Extent` in moeplan.fbs.
struct SegmentExtent {
  uint64_t offset = 0, storedBytes = 0, bytes = 0, checksum = 0;
};

/// A segment that is compressed in memory before it is written: machine code, the tokenizer.
struct PackedSegment {
  enum class Kind { Code, Tokenizer };
  std::string name;
  Kind kind;
  std::vector<uint8_t> stored;
  uint64_t bytes = 0; ///< uncompressed
};

/// The kernels of a module in the order in which the artifact lists them.
std::vector<KernelSpec> collectKernels(mlir::ModuleOp module);

/// Everything the metadata is made from. Segments are numbered: `packed` first, then the module's
/// `plan.segment`s in their order; `extents` follows that numbering. `packed` holds one code
/// segment per library, those of CPUs first, in their order, then the tokenizer where there is one.
struct MetadataInput {
  mlir::ModuleOp module;
  llvm::ArrayRef<KernelSpec> kernels;
  llvm::ArrayRef<KernelLibrary> libraries;
  llvm::ArrayRef<CudaLibrary> cudaLibraries;
  llvm::ArrayRef<PackedSegment> packed;
  llvm::ArrayRef<SegmentExtent> extents;
  const Provenance &provenance;
  std::optional<uint64_t> syntheticSeed; ///< present: no weight has bytes in the file
  const PolicyFacts &facts;
};

/// The finished FlatBuffer. Its size does not depend on the values in the extents, so it can be
/// laid out before checksums are known.
std::vector<uint8_t> buildMetadata(const MetadataInput &input);

} // namespace moeplan::compiler
