// Builds the kernels, segments and dispatches of a plan; knows the dialect, not the model.
#pragma once

#include "compiler/transforms/kernel_tuning.h"
#include "dialects/plan/PlanDialect.h"
#include "kernel_abi.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"

namespace moeplan::compiler {

/// A constant of a kernel: its parameter name and its value.
struct KernelConstant {
  KernelConstant(llvm::StringRef name, int64_t value) : name(name), integer(value) {}
  KernelConstant(llvm::StringRef name, double value) : name(name), real(value), isReal(true) {}
  llvm::StringRef name;
  int64_t integer = 0;
  double real = 0;
  bool isReal = false;
};

/// The module-level symbols of a plan module, made on first use: one `plan.kernel` per distinct
/// (implementation, constants, machine), one `plan.segment` per distinct (weight, format).
class ModuleBuilder {
public:
  explicit ModuleBuilder(mlir::ModuleOp module);

  /// `bindings`: of a kernel that is not dispatched.
  mlir::FlatSymbolRefAttr kernel(llvm::StringRef implementation,
                                 llvm::ArrayRef<KernelConstant> constants, plan::Machine machine,
                                 std::optional<int64_t> bindings = std::nullopt);
  /// The segment of weight `name` (checkpoint tensor `source`, `shape` rows first) in `format`.
  plan::SegmentOp segment(llvm::StringRef name, llvm::StringRef source,
                          llvm::ArrayRef<int64_t> shape, llvm::StringRef format);

private:
  mlir::OpBuilder builder;
  mlir::SymbolTable symbols;
};

/// An operand of a dispatch and what is done with it.
struct Operand {
  plan::Access access;
  mlir::Value buffer;
};
inline Operand read(mlir::Value buffer) { return {plan::Access::Read, buffer}; }
inline Operand write(mlir::Value buffer) { return {plan::Access::Write, buffer}; }
inline Operand readWrite(mlir::Value buffer) { return {plan::Access::ReadWrite, buffer}; }

/// How a kernel's grid follows from its operands.
struct Grid {
  int64_t tiles;
  bool perToken = false;
};

/// Appends buffers and commands to one program: of CUDA kernels if it is in device memory, else of
/// a CPU's.
class ProgramBuilder {
public:
  ProgramBuilder(ModuleBuilder &module, plan::ProgramOp program, const KernelTuning &tuning);
  /// For what the host does in a program in device memory: kernels of a CPU, on pinned memory.
  static ProgramBuilder forHost(ModuleBuilder &module, plan::ProgramOp program,
                                const KernelTuning &tuning);

  int64_t maxTokens() const { return maxTokens_; }
  const KernelTuning &tuning() const { return tuning_; }
  mlir::Value alloc(int64_t bytes);
  /// float32 [max_tokens, features].
  mlir::Value activation(int64_t features) { return alloc(maxTokens() * features * 4); }
  mlir::Value weight(plan::SegmentOp segment);
  mlir::Value resource(plan::ResourceKind kind, int64_t index, int64_t bytes = 0);

  void dispatch(llvm::StringRef implementation, llvm::ArrayRef<KernelConstant> constants, Grid grid,
                llvm::ArrayRef<Operand> operands);
  void copy(mlir::Value source, mlir::Value target, int64_t bytes);

  /// Rows of a weight that one tile of a matrix product takes: a multiple of `multiple`, or all.
  /// One token is bound by memory, where long contiguous reads count, yet enough tiles to balance
  /// the threads. Many tokens are bound by arithmetic: as few rows as there may be.
  int64_t rowsPerTile(int64_t rows, int64_t bytesPerRow,
                      int64_t multiple = MOEPLAN_TILE_ROWS) const;
  Grid rowGrid(int64_t rows, int64_t rowsPerTile) const {
    return {(rows + rowsPerTile - 1) / rowsPerTile};
  }
  Grid tokenGrid(int64_t tilesPerToken = 1) const { return {tilesPerToken, true}; }

private:
  ProgramBuilder(ModuleBuilder &module, plan::ProgramOp program, const KernelTuning &tuning,
                 plan::Machine machine, plan::Memory memory, plan::Memory scratch);

  ModuleBuilder &module;
  int64_t maxTokens_;
  const KernelTuning &tuning_;
  mlir::Location loc;
  mlir::OpBuilder builder;
  plan::Machine machine;
  plan::BufferType bufferType, scratchType;
};

} // namespace moeplan::compiler
