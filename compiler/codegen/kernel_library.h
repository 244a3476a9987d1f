// From micro-kernel bitcode and constants to a shared object.
#pragma once

#include "compiler/cache/build_cache.h"
#include "compiler/codegen/cpu_target.h"

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace moeplan::compiler {

/// What executes a kernel; the numbers are those of moeplan.fbs.
enum class Machine { Cpu = 0, Cuda = 1 };

/// A kernel to make: a micro-kernel of kernels/cpu, or a template of kernels/cuda, with every
/// constant fixed.
struct KernelSpec {
  std::string symbol;         ///< exported name
  std::string implementation; ///< "linear" for moeplan_cpu_linear or moeplan::linear
  std::vector<std::pair<std::string, std::variant<int64_t, double>>> constants; ///< by name
  unsigned bindings = 0; ///< operands of its dispatches
  Machine machine = Machine::Cpu;
};

/// Machine code of a set of kernels for one CPU.
struct KernelLibrary {
  CpuTarget target;
  std::string elf;                 ///< a position-independent shared object without dependencies
  std::vector<uint32_t> codeBytes; ///< machine code of each kernel, in the order of the specs; 0
                                   ///< for kernels of other machines
};

/// Specialises every kernel of CPUs, each by itself, on all cores: a wrapper of type
/// moeplan_kernel_fn calls the micro-kernel with its constants, is inlined and optimised for the
/// target's CPU; all are linked into one object. Deterministic. `cache`, which may be null, is
/// asked for kernels first, and given the new ones. A constant that is missing, unknown or of the
/// wrong type, and a wrong number of bindings, are errors that name the kernel.
llvm::Expected<KernelLibrary> compileKernels(llvm::ArrayRef<KernelSpec> kernels,
                                             const CpuTarget &target, BuildCache *cache = nullptr);

} // namespace moeplan::compiler
