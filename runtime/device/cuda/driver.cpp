#include "runtime/device/cuda/driver.h"

#include <cstdlib>
#include <dlfcn.h>
#include <string>

namespace moeplan::cuda {

Result<std::unique_ptr<Driver>> Driver::open() {
  const char *named = std::getenv("MOEPLAN_LIBCUDA");
  const std::string path = named && *named ? named : "libcuda.so.1";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return unsupported("no CUDA driver: " + path +
                       " cannot be opened; install NVIDIA's driver, or use another device");
  std::unique_ptr<Driver> driver(new Driver(library));
#define MOEPLAN_CUDA_RESOLVE(field, symbol, parameters)                                            \
  driver->field = reinterpret_cast<int(*) parameters>(dlsym(library, symbol));                     \
  if (!driver->field)                                                                              \
    return unsupported("the CUDA driver " + path +                                                 \
                       " has no " symbol ": version 12.0 or later is needed");
  MOEPLAN_CUDA_DRIVER_FUNCTIONS(MOEPLAN_CUDA_RESOLVE)
#undef MOEPLAN_CUDA_RESOLVE
  return driver;
}

Driver::~Driver() { dlclose(library_); }

Status Driver::check(int result, const char *call) const {
  if (result == kSuccess)
    return {};
  const char *name = nullptr, *text = nullptr;
  if (getErrorName(result, &name) != kSuccess || !name)
    name = "unknown error";
  if (getErrorString(result, &text) != kSuccess || !text)
    text = "";
  std::string message = std::string("CUDA driver, ") + call + ": " + name + " (" +
                        std::to_string(result) + ")" + (*text ? std::string(", ") + text : "");
  return result == kOutOfMemory ? exhausted(std::move(message)) : ioError(std::move(message));
}

} // namespace moeplan::cuda
