// Machine code of an artifact, loaded.
#pragma once

#include "kernel_abi.h"
#include "runtime/support/status.h"

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace moeplan {

/// A kernel library (a shared object) in this process. Loading it runs none of it.
class KernelModule {
public:
  /// Maps the shared object from memory (through a memfd, or an unlinked temporary file where the
  /// system forbids executable memfds) and checks its ABI version.
  static Result<std::unique_ptr<KernelModule>> load(std::span<const std::byte> elf);
  ~KernelModule();
  KernelModule(const KernelModule &) = delete;
  KernelModule &operator=(const KernelModule &) = delete;

  /// The kernel exported as `symbol`; valid as long as the module.
  Result<moeplan_kernel_fn> kernel(const std::string &symbol) const;

private:
  KernelModule(void *handle, int fd) : handle_(handle), fd_(fd) {}
  void *handle_;
  /// Open as long as the module: the loader knows a library by the path it was opened through,
  /// which is this descriptor's, and would take another one behind the same number for this one.
  int fd_;
};

} // namespace moeplan
