// Writes the artifact.
#pragma once

#include "compiler/calibrate/weight_quantizer.h"
#include "compiler/import/checkpoint.h"
#include "compiler/pack/atomic_file.h"
#include "compiler/pack/metadata.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"

#include <functional>
#include <string>

namespace moeplan::compiler {

/// Called with the bytes of weights written so far and in all.
using PackProgress = std::function<void(uint64_t done, uint64_t total)>;

/// Called when all of the artifact is in a file at `path` but what it finds out and adds to the
/// facts.
using CompleteFacts = std::function<llvm::Error(const std::string &path)>;

/// Writes the artifact of a lowered plan module to `file` and commits it. Weights stream from the
/// checkpoint through the conversion one piece at a time, one whole weight where it is quantised;
/// of a synthetic checkpoint none does, the artifact holds the seed instead. `complete` may be
/// empty; the size of the metadata must not depend on what it adds. The bytes depend on the
/// arguments alone. Returns the size of the file.
llvm::Expected<uint64_t> packArtifact(mlir::ModuleOp module, const Checkpoint &checkpoint,
                                      llvm::ArrayRef<KernelLibrary> libraries,
                                      llvm::ArrayRef<CudaLibrary> cudaLibraries,
                                      const Provenance &provenance, const PolicyFacts &facts,
                                      WeightQuantizer &quantizer, AtomicFile &file,
                                      const PackProgress &progress, const CompleteFacts &complete);

} // namespace moeplan::compiler
