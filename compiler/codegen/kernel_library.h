// From micro-kernel bitcode and constants to a shared object.
#pragma once

#include "compiler/codegen/cpu_target.h"

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace moeplan::compiler {

/// A kernel to make: a micro-kernel of kernels/cpu with every constant fixed.
struct KernelSpec {
  std::string symbol;         ///< exported name
  std::string implementation; ///< "linear" for moeplan_cpu_linear
  std::vector<std::pair<std::string, std::variant<int64_t, double>>> constants; ///< by name
  unsigned bindings = 0; ///< operands of its dispatches
};

/// Machine code of a set of kernels for one target.
struct KernelLibrary {
  CpuTarget target;
  std::string elf;                 ///< a position-independent shared object without dependencies
  std::vector<uint32_t> codeBytes; ///< machine code of each kernel, in the order of the specs
};

/// Specialises every kernel: a wrapper of type moeplan_kernel_fn calls the micro-kernel with its
/// constants, is inlined and optimised for the target's CPU, and all are linked into one object.
/// Deterministic. A constant that is missing, unknown or of the wrong type, and a wrong number of
/// bindings, are errors that name the kernel.
llvm::Expected<KernelLibrary> compileKernels(llvm::ArrayRef<KernelSpec> kernels,
                                             const CpuTarget &target);

} // namespace moeplan::compiler
