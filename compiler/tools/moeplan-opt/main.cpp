// moeplan-opt: mlir-opt for the dialects and passes of this project.

#include "compiler/transforms/passes.h"

#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "mlir/Transforms/Passes.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  registry.insert<moeplan::moe::MoeDialect, moeplan::plan::PlanDialect, mlir::func::FuncDialect>();
  mlir::registerCanonicalizerPass();
  mlir::registerCSEPass();
  moeplan::compiler::registerMoeplanPasses();
  return mlir::asMainReturnCode(mlir::MlirOptMain(argc, argv, "moeplan IR driver\n", registry));
}
