// The CUDA driver, opened when it is asked for: no header and no library of NVIDIA's is needed to
// build. Names and meanings are those of the driver API's manual.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace moeplan::cuda {

/// An address in the memory of a device, which the host must not read.
using Pointer = uint64_t;
/// Handles of the driver.
using Context = struct ContextOpaque *;
using Stream = struct StreamOpaque *;
using Event = struct EventOpaque *;
using Module = struct ModuleOpaque *;
using Function = struct FunctionOpaque *;
using Graph = struct GraphOpaque *;
using GraphExec = struct GraphExecOpaque *;

inline constexpr int kSuccess = 0, kOutOfMemory = 2;
inline constexpr unsigned kStreamNonBlocking = 1, kEventDefault = 0, kEventDisableTiming = 2;
inline constexpr unsigned kHostAllocPortable = 1, kHostAllocDeviceMap = 2;
inline constexpr int kCaptureThreadLocal = 1;
inline constexpr int kAttributeMajor = 75, kAttributeMinor = 76;
inline constexpr int kFunctionMaxDynamicSharedBytes = 8;

/// The functions that are used: name here, name in the library, parameters.
#define MOEPLAN_CUDA_DRIVER_FUNCTIONS(X)                                                           \
  X(init, "cuInit", (unsigned flags))                                                              \
  X(deviceGetCount, "cuDeviceGetCount", (int *count))                                              \
  X(deviceGet, "cuDeviceGet", (int *device, int ordinal))                                          \
  X(deviceGetName, "cuDeviceGetName", (char *name, int bytes, int device))                         \
  X(deviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, int device))           \
  X(primaryContextRetain, "cuDevicePrimaryCtxRetain", (Context * context, int device))             \
  X(primaryContextRelease, "cuDevicePrimaryCtxRelease_v2", (int device))                           \
  X(contextSetCurrent, "cuCtxSetCurrent", (Context context))                                       \
  X(memGetInfo, "cuMemGetInfo_v2", (size_t *free, size_t *total))                                  \
  X(memAlloc, "cuMemAlloc_v2", (Pointer * pointer, size_t bytes))                                  \
  X(memFree, "cuMemFree_v2", (Pointer pointer))                                                    \
  X(memHostAlloc, "cuMemHostAlloc", (void **pointer, size_t bytes, unsigned flags))                \
  X(memFreeHost, "cuMemFreeHost", (void *pointer))                                                 \
  X(memHostGetDevicePointer, "cuMemHostGetDevicePointer_v2",                                       \
    (Pointer * pointer, void *host, unsigned flags))                                               \
  X(memsetAsync, "cuMemsetD8Async",                                                                \
    (Pointer target, unsigned char value, size_t bytes, Stream stream))                            \
  X(copyToDeviceAsync, "cuMemcpyHtoDAsync_v2",                                                     \
    (Pointer target, const void *source, size_t bytes, Stream stream))                             \
  X(copyToHostAsync, "cuMemcpyDtoHAsync_v2",                                                       \
    (void *target, Pointer source, size_t bytes, Stream stream))                                   \
  X(copyOnDeviceAsync, "cuMemcpyDtoDAsync_v2",                                                     \
    (Pointer target, Pointer source, size_t bytes, Stream stream))                                 \
  X(streamCreate, "cuStreamCreate", (Stream * stream, unsigned flags))                             \
  X(streamDestroy, "cuStreamDestroy_v2", (Stream stream))                                          \
  X(streamSynchronize, "cuStreamSynchronize", (Stream stream))                                     \
  X(streamBeginCapture, "cuStreamBeginCapture_v2", (Stream stream, int mode))                      \
  X(streamEndCapture, "cuStreamEndCapture", (Stream stream, Graph * graph))                        \
  X(eventCreate, "cuEventCreate", (Event * event, unsigned flags))                                 \
  X(eventDestroy, "cuEventDestroy_v2", (Event event))                                              \
  X(eventRecord, "cuEventRecord", (Event event, Stream stream))                                    \
  X(eventSynchronize, "cuEventSynchronize", (Event event))                                         \
  X(streamWaitEvent, "cuStreamWaitEvent", (Stream stream, Event event, unsigned flags))            \
  X(launchHostFunction, "cuLaunchHostFunc",                                                        \
    (Stream stream, void (*function)(void *), void *argument))                                     \
  X(eventElapsedTime, "cuEventElapsedTime", (float *milliseconds, Event begin, Event end))         \
  X(graphInstantiate, "cuGraphInstantiateWithFlags",                                               \
    (GraphExec * exec, Graph graph, unsigned long long flags))                                     \
  X(graphDestroy, "cuGraphDestroy", (Graph graph))                                                 \
  X(graphExecDestroy, "cuGraphExecDestroy", (GraphExec exec))                                      \
  X(graphLaunch, "cuGraphLaunch", (GraphExec exec, Stream stream))                                 \
  X(moduleLoadData, "cuModuleLoadData", (Module * module, const void *image))                      \
  X(moduleUnload, "cuModuleUnload", (Module module))                                               \
  X(moduleGetFunction, "cuModuleGetFunction",                                                      \
    (Function * function, Module module, const char *name))                                        \
  X(functionSetAttribute, "cuFuncSetAttribute", (Function function, int attribute, int value))     \
  X(launchKernel, "cuLaunchKernel",                                                                \
    (Function function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,           \
     unsigned blockY, unsigned blockZ, unsigned sharedBytes, Stream stream, void **parameters,     \
     void **extra))                                                                                \
  X(getErrorName, "cuGetErrorName", (int error, const char **name))                                \
  X(getErrorString, "cuGetErrorString", (int error, const char **text))

/// May be used from any number of threads; each makes a context current first.
class Driver {
public:
  /// Opens the library that the environment variable MOEPLAN_LIBCUDA names, else libcuda.so.1.
  /// Errors: MOEPLAN_UNSUPPORTED, saying what is missing.
  static Result<std::unique_ptr<Driver>> open();
  ~Driver();
  Driver(const Driver &) = delete;
  Driver &operator=(const Driver &) = delete;

  /// What `result` of a function called `call` means: MOEPLAN_RESOURCE_EXHAUSTED for memory, else
  /// MOEPLAN_IO_ERROR, with the driver's own name and words.
  Status check(int result, const char *call) const;

#define MOEPLAN_CUDA_DECLARE(field, symbol, parameters) int(*field) parameters = nullptr;
  MOEPLAN_CUDA_DRIVER_FUNCTIONS(MOEPLAN_CUDA_DECLARE)
#undef MOEPLAN_CUDA_DECLARE

private:
  explicit Driver(void *library) : library_(library) {}
  void *library_;
};

/// Calls a function of `driver`; an error of it is returned from the function around.
#define MOEPLAN_CUDA(driver, function, ...)                                                        \
  MOEPLAN_TRY((driver).check((driver).function(__VA_ARGS__), #function))

} // namespace moeplan::cuda
