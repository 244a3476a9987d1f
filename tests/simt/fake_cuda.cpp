// The CUDA driver's functions on the host's memory, for images that nvrtc.cpp makes: every stream
// does at once what it is told, graphs keep it and do it when they are launched. Counts what is
// called and what is not given back, and fails where a test wants it to.
#include "fake_cuda.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

constexpr int kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidImage = 200,
              kInvalidHandle = 400, kNotFound = 500, kLaunchFailed = 719, kNotPermitted = 800,
              kUnjoined = 904, kIsolation = 905;

using Work = std::function<int()>;
struct Stream;
/// What streams record together. Work of others than the one that began it is done as late as it
/// may be, when that one waits for it: who forgets to wait reads what is not there yet.
struct Capture {
  Stream *origin = nullptr;
  std::vector<Work> captured;
  std::map<Stream *, std::vector<Work>> aside;
};
struct Stream {
  std::shared_ptr<Capture> capture; ///< null: not recorded
};
struct Event {
  std::chrono::steady_clock::time_point time;
  std::shared_ptr<Capture> capture;
  Stream *stream = nullptr;
  size_t position = 0; ///< of the work that `stream` has recorded
};
struct Graph {
  std::vector<Work> work;
};
struct Module {
  void *library = nullptr;
  int file = -1;
};
struct Function {
  int parameters = 0;
  const char *(*launch)(const unsigned grid[3], unsigned threads, void **arguments) = nullptr;
};

struct Driver {
  std::recursive_mutex mutex;
  int capability = 90;
  uint64_t memory = uint64_t(1) << 30, used = 0;
  int64_t untilFailure = -1;
  int failure = 0;
  bool hasFailed = false;
  std::map<std::string, int64_t> calls;
  int64_t allCalls = 0, live = 0, bytesToHost = 0;
  bool inHostFunction = false;              ///< which must not call the driver
  std::map<uint64_t, uint64_t> allocations; ///< bytes by address, of the device
  std::map<void *, std::vector<std::unique_ptr<Function>>> functions;
};
Driver &driver() {
  static Driver instance;
  return instance;
}

/// Counts a call; what it has to fail with, else success.
int enter(const char *name, bool mayFail = true) {
  Driver &d = driver();
  ++d.calls[name];
  ++d.allCalls;
  if (d.inHostFunction)
    return kNotPermitted;
  if (!mayFail || d.untilFailure < 0 || d.untilFailure-- > 0)
    return kSuccess;
  d.hasFailed = true;
  return d.failure;
}

/// Whether all of `bytes` from `address` on are memory of the device.
bool isOnDevice(uint64_t address, uint64_t bytes) {
  const auto &all = driver().allocations;
  auto at = all.upper_bound(address);
  if (at == all.begin())
    return false;
  --at;
  return address + bytes <= at->first + at->second;
}

int perform(void *stream, Work work) {
  auto *s = static_cast<Stream *>(stream);
  if (!s || !s->capture)
    return work();
  (s == s->capture->origin ? s->capture->captured : s->capture->aside[s])
      .push_back(std::move(work));
  return kSuccess;
}

template <class T> void *made(T *object) {
  ++driver().live;
  return object;
}

} // namespace

#define ENTER(name)                                                                                \
  const std::lock_guard lock(driver().mutex);                                                      \
  if (const int error = enter(#name))                                                              \
  return error
#define ENTER_SAFELY(name)                                                                         \
  const std::lock_guard lock(driver().mutex);                                                      \
  enter(#name, false)

extern "C" {

void fake_cuda_reset() {
  Driver &d = driver();
  const std::lock_guard lock(d.mutex);
  d.calls.clear();
  d.allCalls = d.bytesToHost = 0;
  d.untilFailure = -1;
  d.hasFailed = false;
}
void fake_cuda_set_device(int capability, uint64_t bytes) {
  driver().capability = capability;
  driver().memory = bytes;
}
void fake_cuda_fail_call(int64_t index, int error) {
  const std::lock_guard lock(driver().mutex);
  driver().untilFailure = index;
  driver().failure = error;
}
bool fake_cuda_failed() {
  const std::lock_guard lock(driver().mutex);
  return driver().hasFailed;
}
int64_t fake_cuda_calls(const char *name) {
  const std::lock_guard lock(driver().mutex);
  return name ? driver().calls[name] : driver().allCalls;
}
int64_t fake_cuda_bytes_to_host() { return driver().bytesToHost; }
int64_t fake_cuda_live_objects() { return driver().live; }
uint64_t fake_cuda_device_bytes() { return driver().used; }

int cuInit(unsigned) {
  ENTER(cuInit);
  return kSuccess;
}
int cuDriverGetVersion(int *version) {
  ENTER(cuDriverGetVersion);
  *version = 13000;
  return kSuccess;
}
int cuDeviceGetCount(int *count) {
  ENTER(cuDeviceGetCount);
  *count = 1;
  return kSuccess;
}
int cuDeviceGet(int *device, int ordinal) {
  ENTER(cuDeviceGet);
  *device = ordinal;
  return kSuccess;
}
int cuDeviceGetName(char *name, int bytes, int) {
  ENTER(cuDeviceGetName);
  std::snprintf(name, size_t(bytes), "a CPU that plays a GPU");
  return kSuccess;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
  ENTER(cuDeviceGetAttribute);
  if (attribute != 75 && attribute != 76)
    return kInvalidValue;
  *value = attribute == 75 ? driver().capability / 10 : driver().capability % 10;
  return kSuccess;
}
int cuDevicePrimaryCtxRetain(void **context, int) {
  ENTER(cuDevicePrimaryCtxRetain);
  *context = made(new int(0));
  return kSuccess;
}
int cuDevicePrimaryCtxRelease_v2(int) {
  ENTER_SAFELY(cuDevicePrimaryCtxRelease_v2);
  --driver().live;
  return kSuccess;
}
int cuCtxSetCurrent(void *) {
  ENTER_SAFELY(cuCtxSetCurrent);
  return kSuccess;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
  ENTER(cuMemGetInfo_v2);
  *total = driver().memory;
  *free = driver().memory - std::min(driver().used, driver().memory);
  return kSuccess;
}
int cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
  ENTER(cuMemAlloc_v2);
  Driver &d = driver();
  if (bytes == 0)
    return kInvalidValue;
  if (d.used + bytes > d.memory)
    return kOutOfMemory;
  void *memory = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  std::memset(memory, 0xcd, bytes); // nothing may count on what is in it
  d.used += bytes;
  d.allocations[uint64_t(made(memory))] = bytes;
  *pointer = uint64_t(memory);
  return kSuccess;
}
int cuMemFree_v2(uint64_t pointer) {
  ENTER_SAFELY(cuMemFree_v2);
  Driver &d = driver();
  const auto at = d.allocations.find(pointer);
  if (at == d.allocations.end())
    std::abort();
  d.used -= at->second;
  std::memset(reinterpret_cast<void *>(pointer), 0xdd, at->second);
  d.allocations.erase(at);
  --d.live;
  std::free(reinterpret_cast<void *>(pointer));
  return kSuccess;
}
int cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
  ENTER(cuMemHostAlloc);
  *pointer = made(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  return kSuccess;
}
int cuMemFreeHost(void *pointer) {
  ENTER_SAFELY(cuMemFreeHost);
  --driver().live;
  std::free(pointer);
  return kSuccess;
}
int cuMemHostGetDevicePointer_v2(uint64_t *pointer, void *host, unsigned) {
  ENTER(cuMemHostGetDevicePointer_v2);
  *pointer = uint64_t(host);
  return kSuccess;
}
int cuMemsetD8Async(uint64_t target, unsigned char value, size_t bytes, void *stream) {
  ENTER(cuMemsetD8Async);
  if (!isOnDevice(target, bytes))
    return kInvalidValue;
  return perform(stream, [=] {
    std::memset(reinterpret_cast<void *>(target), value, bytes);
    return kSuccess;
  });
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t bytes, void *stream) {
  ENTER(cuMemcpyHtoDAsync_v2);
  if (!isOnDevice(target, bytes))
    return kInvalidValue;
  return perform(stream, [=] {
    std::memcpy(reinterpret_cast<void *>(target), source, bytes);
    return kSuccess;
  });
}
int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t bytes, void *stream) {
  ENTER(cuMemcpyDtoHAsync_v2);
  if (!isOnDevice(source, bytes))
    return kInvalidValue;
  return perform(stream, [=] {
    driver().bytesToHost += int64_t(bytes);
    std::memcpy(target, reinterpret_cast<const void *>(source), bytes);
    return kSuccess;
  });
}
int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t bytes, void *stream) {
  ENTER(cuMemcpyDtoDAsync_v2);
  if (!isOnDevice(target, bytes) || !isOnDevice(source, bytes))
    return kInvalidValue;
  return perform(stream, [=] {
    std::memmove(reinterpret_cast<void *>(target), reinterpret_cast<const void *>(source), bytes);
    return kSuccess;
  });
}
int cuStreamCreate(void **stream, unsigned) {
  ENTER(cuStreamCreate);
  *stream = made(new Stream);
  return kSuccess;
}
int cuStreamDestroy_v2(void *stream) {
  ENTER_SAFELY(cuStreamDestroy_v2);
  --driver().live;
  delete static_cast<Stream *>(stream);
  return kSuccess;
}
int cuStreamSynchronize(void *) {
  ENTER(cuStreamSynchronize);
  return kSuccess;
}
int cuStreamBeginCapture_v2(void *stream, int) {
  ENTER(cuStreamBeginCapture_v2);
  auto *s = static_cast<Stream *>(stream);
  s->capture = std::make_shared<Capture>();
  s->capture->origin = s;
  return kSuccess;
}
int cuStreamEndCapture(void *stream, void **graph) {
  ENTER(cuStreamEndCapture);
  auto *s = static_cast<Stream *>(stream);
  const std::shared_ptr<Capture> capture = std::exchange(s->capture, nullptr);
  if (!capture || capture->origin != s)
    return kInvalidHandle;
  bool joined = true;
  for (auto &[other, work] : capture->aside) {
    other->capture = nullptr;
    joined = joined && work.empty();
  }
  if (!joined)
    return kUnjoined;
  *graph = made(new Graph{std::move(capture->captured)});
  return kSuccess;
}
int cuStreamWaitEvent(void *stream, void *event, unsigned) {
  ENTER(cuStreamWaitEvent);
  auto *s = static_cast<Stream *>(stream);
  auto *e = static_cast<Event *>(event);
  if (!e->capture)
    return s->capture ? kIsolation : kSuccess;
  if (s->capture && s->capture != e->capture)
    return kIsolation;
  s->capture = e->capture;
  if (s != e->capture->origin) {
    e->capture->aside[s];
    return kSuccess;
  }
  std::vector<Work> &aside = e->capture->aside[e->stream];
  for (size_t i = 0; i < e->position; ++i)
    e->capture->captured.push_back(std::move(aside[i]));
  aside.erase(aside.begin(), aside.begin() + ptrdiff_t(std::exchange(e->position, 0)));
  return kSuccess;
}
int cuLaunchHostFunc(void *stream, void (*function)(void *), void *argument) {
  ENTER(cuLaunchHostFunc);
  return perform(stream, [=] {
    driver().inHostFunction = true;
    function(argument);
    driver().inHostFunction = false;
    return kSuccess;
  });
}
int cuEventCreate(void **event, unsigned) {
  ENTER(cuEventCreate);
  *event = made(new Event());
  return kSuccess;
}
int cuEventDestroy_v2(void *event) {
  ENTER_SAFELY(cuEventDestroy_v2);
  --driver().live;
  delete static_cast<Event *>(event);
  return kSuccess;
}
int cuEventRecord(void *event, void *stream) {
  ENTER(cuEventRecord);
  auto *s = static_cast<Stream *>(stream);
  auto *e = static_cast<Event *>(event);
  *e = {std::chrono::steady_clock::now(), s ? s->capture : nullptr, s};
  if (e->capture && s != e->capture->origin)
    e->position = e->capture->aside[s].size();
  return kSuccess;
}
int cuEventSynchronize(void *) {
  ENTER(cuEventSynchronize);
  return kSuccess;
}
int cuEventElapsedTime(float *milliseconds, void *begin, void *end) {
  ENTER(cuEventElapsedTime);
  const std::chrono::duration<float, std::milli> elapsed =
      static_cast<Event *>(end)->time - static_cast<Event *>(begin)->time;
  *milliseconds = elapsed.count();
  return kSuccess;
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long) {
  ENTER(cuGraphInstantiateWithFlags);
  *exec = made(new Graph(*static_cast<Graph *>(graph)));
  return kSuccess;
}
int cuGraphDestroy(void *graph) {
  ENTER_SAFELY(cuGraphDestroy);
  --driver().live;
  delete static_cast<Graph *>(graph);
  return kSuccess;
}
int cuGraphExecDestroy(void *exec) {
  ENTER_SAFELY(cuGraphExecDestroy);
  --driver().live;
  delete static_cast<Graph *>(exec);
  return kSuccess;
}
int cuGraphLaunch(void *exec, void *) {
  ENTER(cuGraphLaunch);
  for (const Work &work : static_cast<Graph *>(exec)->work)
    if (const int error = work())
      return error;
  return kSuccess;
}
int cuModuleLoadData(void **module, const void *image) {
  ENTER(cuModuleLoadData);
  // The size is in the header: the section headers end a shared object of the linker.
  const auto *bytes = static_cast<const unsigned char *>(image);
  if (std::memcmp(bytes, "\177ELF", 4) != 0)
    return kInvalidImage;
  uint64_t sections;
  uint16_t size, count;
  std::memcpy(&sections, bytes + 0x28, 8);
  std::memcpy(&size, bytes + 0x3a, 2);
  std::memcpy(&count, bytes + 0x3c, 2);
  const uint64_t total = sections + uint64_t(size) * count;
  const int file = memfd_create("simt kernel", 0);
  if (file < 0 || write(file, image, total) != ssize_t(total))
    return kInvalidImage;
  void *library = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    std::fprintf(stderr, "fake CUDA driver: %s\n", dlerror());
    close(file);
    return kInvalidImage;
  }
  *module = made(new Module{library, file});
  return kSuccess;
}
int cuModuleUnload(void *module) {
  ENTER_SAFELY(cuModuleUnload);
  auto *m = static_cast<Module *>(module);
  driver().functions.erase(module);
  dlclose(m->library);
  close(m->file);
  delete m;
  --driver().live;
  return kSuccess;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  ENTER(cuModuleGetFunction);
  void *library = static_cast<Module *>(module)->library;
  auto parameters =
      reinterpret_cast<int (*)(const char *)>(dlsym(library, "moeplan_simt_parameters"));
  auto launch = reinterpret_cast<decltype(Function::launch)>(dlsym(library, "moeplan_simt_launch"));
  if (!parameters || !launch || parameters(name) < 0)
    return kNotFound;
  auto &functions = driver().functions[module];
  functions.push_back(std::make_unique<Function>(Function{parameters(name), launch}));
  *function = functions.back().get();
  return kSuccess;
}
int cuFuncSetAttribute(void *, int, int) {
  ENTER(cuFuncSetAttribute);
  return kSuccess;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned,
                   unsigned, unsigned, void *stream, void **parameters, void **) {
  ENTER(cuLaunchKernel);
  auto *f = static_cast<Function *>(function);
  std::vector<uint64_t> values;
  for (int i = 0; i < f->parameters; ++i)
    values.push_back(*static_cast<uint64_t *>(parameters[i]));
  return perform(stream, [=] {
    std::vector<uint64_t> own = values;
    std::vector<void *> arguments;
    for (uint64_t &value : own)
      arguments.push_back(&value);
    const unsigned grid[3] = {x, y, z};
    const char *error = f->launch(grid, threads, arguments.data());
    if (error)
      std::fprintf(stderr, "fake CUDA driver: %s\n", error);
    return error ? kLaunchFailed : kSuccess;
  });
}
int cuGetErrorName(int error, const char **name) {
  static const std::map<int, const char *> names{
      {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
      {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
      {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"},
      {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE"},
      {kNotFound, "CUDA_ERROR_NOT_FOUND"},
      {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED"},
      {kNotPermitted, "CUDA_ERROR_NOT_PERMITTED"},
      {kUnjoined, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"},
      {kIsolation, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"}};
  const auto at = names.find(error);
  *name = at == names.end() ? nullptr : at->second;
  return at == names.end() ? kInvalidValue : kSuccess;
}
int cuGetErrorString(int error, const char **text) {
  *text = error == kOutOfMemory ? "out of memory" : "as a test wanted it";
  return kSuccess;
}
}
