// A tier and its placement as an operation of the `moe` dialect.
#pragma once

#include "compiler/planner/placement.h"
#include "compiler/policy/policy.h"

#include "mlir/IR/BuiltinOps.h"

namespace moeplan::compiler {

/// Appends a `moe.tier` to the module: with `placement`, expert by expert, where the tier was
/// planned; with its pins as rules where it was not. `placement` may be null then.
void addTier(mlir::ModuleOp module, const Tier &tier, const Placement *placement);

} // namespace moeplan::compiler
