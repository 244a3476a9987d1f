// One placed function into one program.
#pragma once

#include "compiler/transforms/program_builder.h"
#include "dialects/moe/MoeDialect.h"
#include "kv_formats.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace moeplan::compiler {

/// Fills `program`, which is empty, with what computes the placed `function` for up to its
/// max_tokens tokens: buffers without offsets, dispatches in order, no barriers; and states its
/// weight_bytes_per_token. The function must hold ops of the moe dialect that have a counterpart
/// in a plan and nothing else. Expert kernels can read the formats of the bit set `alsoFormats`
/// besides those that occur.
void convertModel(ModuleBuilder &module, plan::ProgramOp program, mlir::func::FuncOp function,
                  const KvFormatInfo &kvFormat, int64_t alsoFormats, const KernelTuning &tuning);

/// The same for a program in device memory, of CUDA kernels (kernels/cuda). Fails, with an error,
/// where these have no kernel for the model.
mlir::LogicalResult convertModelForCuda(ModuleBuilder &module, plan::ProgramOp program,
                                        mlir::func::FuncOp function, const KvFormatInfo &kvFormat,
                                        int64_t alsoFormats, const KernelTuning &tuning);

} // namespace moeplan::compiler
