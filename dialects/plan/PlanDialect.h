// The `plan` dialect: buffers with offsets, dispatches, copies, barriers and the expert table.
#pragma once

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/SymbolTable.h"

#include "dialects/plan/PlanDialect.h.inc"
#include "dialects/plan/PlanEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/plan/PlanAttrs.h.inc"
#define GET_TYPEDEF_CLASSES
#include "dialects/plan/PlanTypes.h.inc"
#define GET_OP_CLASSES
#include "dialects/plan/PlanOps.h.inc"

namespace moeplan::plan {

/// Module attribute that holds the `#plan.model`.
inline constexpr llvm::StringLiteral kModelAttrName = "plan.model";

/// Alignment in bytes of every buffer in an arena: a cache line, and any vector register.
inline constexpr int64_t kArenaAlignment = 64;

inline bool reads(Access access) { return access != Access::Write; }
inline bool writes(Access access) { return access != Access::Read; }

/// Whether the buffer may be written: scratch, caches and logits, but no weight, table or input.
bool isWritable(mlir::Value buffer);

/// Whether it is the host that runs the dispatch, beside the device whose program it is in.
/// `symbols`: the module's.
bool isHostWork(const mlir::SymbolTable &symbols, DispatchOp dispatch);

/// Bytes a command may touch behind `buffer`; 0 where the session decides (caches, expert tables).
int64_t accessibleBytes(mlir::Value buffer);

} // namespace moeplan::plan
