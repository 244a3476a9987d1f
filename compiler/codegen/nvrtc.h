// NVRTC, NVIDIA's compiler for CUDA C++ as a library, opened when it is asked for.
#pragma once

#include "compiler/codegen/cuda_headers.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// Needs neither a GPU nor a driver, and no header of the toolkit when moeplan is built. May be
/// used from several threads. The library stays open until the process ends.
class Nvrtc {
public:
  /// Opens the library that the environment variable MOEPLAN_NVRTC names; without it, the first of:
  /// the loader's path, $CUDA_HOME, $CUDA_PATH, /usr/local/cuda*, the Python packages
  /// nvidia-cuda-nvrtc. The error says how to get it.
  static llvm::Expected<std::unique_ptr<Nvrtc>> open();
  ~Nvrtc();
  Nvrtc(const Nvrtc &) = delete;

  /// As it was opened: a file or a name for the loader.
  const std::string &path() const { return path_; }
  /// "13.0".
  const std::string &version() const { return version_; }
  /// Compute capabilities that it compiles for, ascending: 80 for "sm_80".
  const std::vector<int> &capabilities() const { return capabilities_; }

  /// Fails, naming what there is, where it makes no code for `target`: "sm_80", "sm_90a",
  /// "compute_90".
  llvm::Error checkTarget(llvm::StringRef target) const;

  struct Output {
    std::string image; ///< a cubin, or PTX text with its zero byte
    std::string log;   ///< what ptxas says of registers, memory and spills; may be empty
  };
  /// Compiles `source`, called `name` in messages. The error is the first one of the log.
  llvm::Expected<Output> compile(const std::string &source, const std::string &name,
                                 llvm::ArrayRef<CudaHeader> headers,
                                 const std::string &target) const;
  /// The options that compile() gives besides the target.
  static llvm::ArrayRef<const char *> options();

private:
  struct Functions;
  Nvrtc();
  llvm::Error load(void *library, std::string path);

  std::unique_ptr<Functions> functions_;
  std::string path_, version_;
  std::vector<int> capabilities_;
};

} // namespace moeplan::compiler
