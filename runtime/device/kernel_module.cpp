#include "runtime/device/kernel_module.h"

#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

namespace moeplan {

namespace {

Status writeAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return ioError(std::string("cannot write kernels to memory: ") + std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

/// dlopen of the bytes by way of `fd`, which is closed on failure.
Result<void *> openThrough(int fd, std::span<const std::byte> elf) {
  if (Status status = writeAll(fd, elf); !status.ok()) {
    close(fd);
    return status;
  }
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  void *handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char *reason = handle ? nullptr : dlerror();
  Status failure = handle ? Status()
                          : unsupported(std::string("cannot load kernels: ") +
                                        (reason ? reason : "unknown reason"));
  if (!handle) {
    close(fd);
    return failure;
  }
  return handle;
}

} // namespace

Result<std::unique_ptr<KernelModule>> KernelModule::load(std::span<const std::byte> elf) {
  Result<void *> handle = unsupported("cannot load kernels: no memfd");
  int fd = memfd_create("moeplan-kernels", MFD_CLOEXEC);
  if (fd >= 0)
    handle = openThrough(fd, elf);
  if (!handle.ok()) {
    char path[] = "/tmp/moeplan-kernels-XXXXXX";
    fd = mkstemp(path);
    if (fd >= 0) {
      unlink(path);
      handle = openThrough(fd, elf);
    }
  }
  if (!handle.ok())
    return std::move(handle).status();
  std::unique_ptr<KernelModule> module(new KernelModule(handle.value(), fd));
  const auto *version =
      static_cast<const uint32_t *>(dlsym(module->handle_, MOEPLAN_KERNEL_ABI_SYMBOL));
  if (!version)
    return corrupt("kernel library states no ABI version");
  if (*version != MOEPLAN_KERNEL_ABI_VERSION)
    return unsupported("kernel library has ABI version " + std::to_string(*version) +
                       ", this runtime needs " + std::to_string(MOEPLAN_KERNEL_ABI_VERSION));
  return module;
}

KernelModule::~KernelModule() {
  dlclose(handle_);
  close(fd_);
}

Result<moeplan_kernel_fn> KernelModule::kernel(const std::string &symbol) const {
  void *address = dlsym(handle_, symbol.c_str());
  if (!address)
    return corrupt("kernel library lacks kernel '" + symbol + "'");
  return reinterpret_cast<moeplan_kernel_fn>(address);
}

} // namespace moeplan
