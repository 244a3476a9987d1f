// What the conversions of a model for CPUs and for CUDA devices have in common.
#pragma once

#include "compiler/transforms/program_builder.h"
#include "dialects/moe/MoeDialect.h"
#include "formats.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/TypeSwitch.h"

namespace moeplan::compiler {

/// Norms and the router's gate are small and sensitive: always float32.
inline constexpr llvm::StringLiteral kVectorFormat = "f32";

inline const FormatInfo &format(llvm::StringRef name) {
  return *findFormat(std::string_view(name));
}

/// The columns of an activation [tokens, features].
inline int64_t features(mlir::Value activation) {
  return mlir::cast<mlir::RankedTensorType>(activation.getType()).getDimSize(1);
}

/// Expands one placed function into one program: the base knows weights, buffers and residuals,
/// what derives from it knows the kernels of a machine.
class ConverterBase {
protected:
  /// Where an activation comes from: float32 rows, to be normalised with `scale` where there is
  /// one.
  struct Source {
    mlir::Value rows, scale;
    double epsilon = 0;

    int64_t normalize() const { return scale ? 1 : 0; }
    /// What is bound as scale: a kernel that does not normalise does not read it.
    mlir::Value scaleOrRows() const { return scale ? scale : rows; }
  };
  /// Rows in the forms that matrix products of a CPU read.
  struct OperandRows {
    mlir::Value rows;
    int64_t forms = 0;
  };
  /// Tokens sorted by expert.
  struct Groups {
    mlir::Value expertBegin, slotToken, slotWeight;
  };
  /// Of a layer's experts. The widest rows, in bytes, are of w1 and w3, and of w2.
  struct ExpertsShape {
    int64_t hidden, intermediate, numExperts, topK, widestUp, widestDown;
  };
  /// The formats of a layer's experts, as bit sets, with those that must be readable besides.
  struct ExpertFormats {
    int64_t up, down;
  };

  ConverterBase(ModuleBuilder &module, plan::ProgramOp op, mlir::func::FuncOp function,
                int64_t alsoFormats, const KernelTuning &tuning);
  virtual ~ConverterBase() = default;

  /// Calls `converter.convert()`, Derived's, for each op of the function in order, then states what
  /// the program reads.
  template <typename Derived> void convertAll(Derived &converter) {
    for (mlir::Operation &op : function.front())
      llvm::TypeSwitch<mlir::Operation *>(&op)
          .template Case<moe::EmbeddingOp, moe::RmsNormOp, moe::AttentionOp, moe::RouterOp,
                         moe::ExpertsOp, moe::AddOp, moe::LogitsOp>(
              [&](auto typed) { converter.convert(typed); });
    programOp.setWeightBytesPerToken(weightBytesPerToken);
  }

  /// Dispatches what makes `rows` of `from`, which has a scale; `norm` is the op's result.
  virtual void normalize(const Source &from, mlir::Value norm, mlir::Value rows) = 0;

  plan::SegmentOp segment(mlir::FlatSymbolRefAttr symbol, llvm::StringRef formatName);
  /// A weight that every token reads whole.
  mlir::Value weight(mlir::FlatSymbolRefAttr symbol, llvm::StringRef formatName);

  Source source(mlir::Value value);
  /// The float32 rows of `value`; a norm that only products had read until now is computed here.
  mlir::Value rowsOf(mlir::Value value);
  /// The buffer that `op` adds its result to: the residual's own where `op` is its last user, else
  /// a copy of it; a fresh one where there is no residual.
  mlir::Value resultBuffer(mlir::Operation *op, mlir::Value residual, mlir::Value result);

  /// In the memory of `on`.
  Groups allocateGroups(ProgramBuilder &on, int64_t numExperts, int64_t topK);
  /// Counts the routed experts among the weights that a token reads.
  ExpertsShape shapeOf(moe::ExpertsOp op);
  ExpertFormats formatsOf(moe::ExpertsOp op) const;
  /// The experts of the slots of `grouped` with the CPU's kernels: added to `result` where it is
  /// read. `x` has the forms of `formats.up`.
  static void dispatchCpuExperts(ProgramBuilder &on, const ExpertsShape &shape,
                                 const ExpertFormats &formats, const OperandRows &x,
                                 mlir::Value table, const Groups &grouped, const Operand &result);

  /// Norms are computed by what reads them: see source().
  void convert(moe::RmsNormOp op);
  /// `launch`: constants of the machine's kernel besides those of the operation.
  void convertEmbedding(moe::EmbeddingOp op, llvm::ArrayRef<KernelConstant> launch);
  void convertAdd(moe::AddOp op, llvm::ArrayRef<KernelConstant> launch);

  ModuleBuilder &module;
  ProgramBuilder program;
  plan::ProgramOp programOp;
  mlir::func::FuncOp function;
  int64_t alsoFormats;                   ///< bit set
  llvm::StringRef matrixFormat = "bf16"; ///< of everything outside the experts that is no vector
  llvm::DenseMap<mlir::Value, mlir::Value>
      buffers;                                    ///< float32 rows, or ids and weights of a router
  llvm::DenseMap<mlir::Value, mlir::Value> norms; ///< the scales of norms
  llvm::DenseMap<mlir::Value, Groups> groups;     ///< by ids
  int64_t weightBytesPerToken = 0;
};

} // namespace moeplan::compiler
