// Writes the artifact.
#pragma once

#include "compiler/pack/metadata.h"
#include "compiler/pack/weight_stream.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"

#include <functional>
#include <string>

namespace moeplan::compiler {

/// Called when all of the artifact is in a file at `path` but what it finds out and adds to the
/// facts.
using CompleteFacts = std::function<llvm::Error(const std::string &path)>;

struct PackReport {
  uint64_t fileBytes = 0;
  WeightStreamReport weights;
};

/// Writes the artifact of a lowered plan module to the tools' file and commits it. The weights of a
/// checkpoint stream through quantiser or conversion (see streamWeights()); of a synthetic
/// checkpoint none does, the artifact holds the seed instead. Completes `provenance` with the
/// digest of the checkpoint. `complete` may be empty; the size of the metadata must not depend on
/// what it adds. The bytes depend on the arguments alone, not on what a cache holds.
llvm::Expected<PackReport> packArtifact(mlir::ModuleOp module,
                                        llvm::ArrayRef<KernelLibrary> libraries,
                                        llvm::ArrayRef<CudaLibrary> cudaLibraries,
                                        Provenance &provenance, const PolicyFacts &facts,
                                        const WeightStreamTools &tools,
                                        const CompleteFacts &complete);

} // namespace moeplan::compiler
