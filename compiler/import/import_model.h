// From a checkpoint to the `moe` dialect.
#pragma once

#include "compiler/import/checkpoint.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

namespace moeplan::compiler {

/// Builds the `moe` module of a checkpoint: its configuration as module attribute, every weight as
/// a symbol (file, offset, shape, dtype; no bytes), and the function `@forward` from token ids to
/// logits. The module is verified. `context` must have the moe and func dialects loaded.
mlir::OwningOpRef<mlir::ModuleOp> importModel(mlir::MLIRContext &context,
                                              const Checkpoint &checkpoint);

} // namespace moeplan::compiler
