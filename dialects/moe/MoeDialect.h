// The `moe` dialect: the model as tensors, weights, routing and experts.
#pragma once

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include <optional>

#include "dialects/moe/MoeDialect.h.inc"
#include "dialects/moe/MoeEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/moe/MoeAttrs.h.inc"
#define GET_OP_CLASSES
#include "dialects/moe/MoeOps.h.inc"

namespace moeplan::moe {

/// Module attribute that holds the model's `#moe.config`.
inline constexpr llvm::StringLiteral kConfigAttrName = "moe.config";
/// Function attribute: the tier a placed copy of the model was made for.
inline constexpr llvm::StringLiteral kTierAttrName = "moe.tier";
/// Function attribute of a placed copy: the format of its matrices outside the experts, where it is
/// not bf16.
inline constexpr llvm::StringLiteral kNonExpertFormatAttrName = "moe.non_expert_format";
/// Function attribute of a placed copy: its `#moe.miss`, where it has one.
inline constexpr llvm::StringLiteral kMissAttrName = "moe.miss";
/// Symbol of the imported model before placement.
inline constexpr llvm::StringLiteral kForwardName = "forward";

} // namespace moeplan::moe
