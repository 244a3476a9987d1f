// What CPU the kernels are compiled for.
#pragma once

#include "cpu/bitcode.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace moeplan::compiler {

/// A CPU that machine code can be made for and, later, recognised by what it needs.
struct CpuTarget {
  std::string cpu;                           ///< LLVM's name: "znver4", "x86-64-v3"
  std::string triple;                        ///< "x86_64-pc-linux-gnu"
  std::vector<std::string> features;         ///< every ISA extension the code may use, sorted
  std::string llvmFeatures;                  ///< the same for LLVM: "+avx2,-avx512f,..."
  const CpuKernelBitcode *kernels = nullptr; ///< the best micro-kernels for it; never null
};

/// Resolves `request`: "host" or a CPU name that LLVM knows. An extension the runtime cannot detect
/// (moeplan::isKnownCpuFeature) is switched off, so that what is recorded is all that is needed.
/// Fails, naming near matches, for an unknown CPU.
llvm::Expected<CpuTarget> resolveCpuTarget(llvm::StringRef request);

} // namespace moeplan::compiler
