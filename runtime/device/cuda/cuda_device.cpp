#include "runtime/device/cuda/cuda_device.h"

#include "runtime/support/fault.h"
#include "runtime/support/quantities.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

namespace moeplan {

namespace {

cuda::Pointer addressOf(const std::byte *pointer) { return reinterpret_cast<uintptr_t>(pointer); }
std::byte *pointerTo(cuda::Pointer address) {
  return reinterpret_cast<std::byte *>(uintptr_t(address)); // NOLINT(performance-no-int-to-ptr)
}

struct Options {
  int ordinal = 0;
  uint64_t memory = Device::kNoBudget;
};

Result<Options> parseOptions(std::string_view text) {
  Options options;
  while (!text.empty()) {
    const std::string_view option = text.substr(0, text.find(','));
    text.remove_prefix(std::min(option.size() + 1, text.size()));
    constexpr std::string_view kMemory = "device_memory=";
    if (option.starts_with(kMemory)) {
      const auto bytes = parseBytes(option.substr(kMemory.size()));
      if (!bytes)
        return invalidArgument("device 'cuda': '" + std::string(option) +
                               "': bytes expected, as device_memory=24GiB");
      options.memory = *bytes;
      continue;
    }
    const char *end = option.data() + option.size();
    const auto [stop, error] = std::from_chars(option.data(), end, options.ordinal);
    if (error != std::errc() || stop != end || options.ordinal < 0)
      return invalidArgument("device 'cuda': '" + std::string(option) +
                             "': the number of a device or device_memory expected, as in "
                             "cuda:0,device_memory=24GiB");
  }
  return options;
}

} // namespace

PinnedMemory::~PinnedMemory() {
  if (data_ && device_->use().ok())
    device_->driver_->memFreeHost(data_);
}
PinnedMemory::PinnedMemory(PinnedMemory &&other) noexcept
    : device_(other.device_), data_(std::exchange(other.data_, nullptr)),
      onDevice_(std::exchange(other.onDevice_, nullptr)) {}
PinnedMemory &PinnedMemory::operator=(PinnedMemory &&other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(onDevice_, other.onDevice_);
  return *this;
}

Result<std::unique_ptr<Device>> CudaDevice::create(std::string_view text) {
  MOEPLAN_ASSIGN(const Options options, parseOptions(text));
  std::unique_ptr<CudaDevice> device(new CudaDevice());
  MOEPLAN_ASSIGN(device->driver_, cuda::Driver::open());
  MOEPLAN_TRY(device->open(options.ordinal));
  size_t free = 0, total = 0;
  MOEPLAN_CUDA(*device->driver_, memGetInfo, &free, &total);
  device->setBudget(std::min<uint64_t>(options.memory, free));
  return std::unique_ptr<Device>(std::move(device));
}

Status CudaDevice::open(int ordinal) {
  const cuda::Driver &driver = *driver_;
  MOEPLAN_CUDA(driver, init, 0);
  int count = 0;
  MOEPLAN_CUDA(driver, deviceGetCount, &count);
  if (ordinal >= count)
    return invalidArgument("there is no CUDA device " + std::to_string(ordinal) +
                           "; the driver has " + std::to_string(count));
  MOEPLAN_CUDA(driver, deviceGet, &device_, ordinal);
  char name[256] = {};
  MOEPLAN_CUDA(driver, deviceGetName, name, sizeof(name), device_);
  model_ = name;
  int major = 0, minor = 0;
  MOEPLAN_CUDA(driver, deviceGetAttribute, &major, cuda::kAttributeMajor, device_);
  MOEPLAN_CUDA(driver, deviceGetAttribute, &minor, cuda::kAttributeMinor, device_);
  capability_ = unsigned(10 * major + minor);
  MOEPLAN_CUDA(driver, primaryContextRetain, &context_, device_);
  MOEPLAN_TRY(use());
  MOEPLAN_CUDA(driver, streamCreate, &copies_, cuda::kStreamNonBlocking);
  for (Staging &staging : staging_) {
    MOEPLAN_ASSIGN(staging.memory, allocatePinned(kStagingBytes));
    MOEPLAN_CUDA(driver, eventCreate, &staging.event, cuda::kEventDisableTiming);
  }
  return {};
}

CudaDevice::~CudaDevice() {
  if (!context_)
    return;
  if (use().ok()) {
    for (Staging &staging : staging_) {
      if (staging.event)
        driver_->eventDestroy(staging.event);
      staging.memory = {};
    }
    if (copies_)
      driver_->streamDestroy(copies_);
  }
  driver_->primaryContextRelease(device_);
}

Status CudaDevice::use() const {
  return driver_->check(driver_->contextSetCurrent(context_), "contextSetCurrent");
}

Result<PinnedMemory> CudaDevice::allocatePinned(uint64_t bytes) {
  MOEPLAN_TRY(use());
  PinnedMemory memory;
  memory.device_ = this;
  void *data = nullptr;
  MOEPLAN_CUDA(*driver_, memHostAlloc, &data, bytes,
               cuda::kHostAllocPortable | cuda::kHostAllocDeviceMap);
  memory.data_ = static_cast<std::byte *>(data);
  cuda::Pointer onDevice = 0;
  MOEPLAN_CUDA(*driver_, memHostGetDevicePointer, &onDevice, data, 0);
  memory.onDevice_ = pointerTo(onDevice);
  return memory;
}

Result<std::byte *> CudaDevice::take(uint64_t bytes, bool zeroed) {
  MOEPLAN_TRY(use());
  cuda::Pointer pointer = 0;
  MOEPLAN_CUDA(*driver_, memAlloc, &pointer, std::max<uint64_t>(bytes, 1));
  if (!zeroed)
    return pointerTo(pointer);
  Status status = driver_->check(driver_->memsetAsync(pointer, 0, bytes, copies_), "memsetAsync");
  if (status.ok())
    status = driver_->check(driver_->streamSynchronize(copies_), "streamSynchronize");
  if (!status.ok()) {
    driver_->memFree(pointer);
    return status;
  }
  return pointerTo(pointer);
}

void CudaDevice::give(std::byte *block) {
  if (use().ok())
    driver_->memFree(addressOf(block));
}

Status CudaDevice::waitFor(const Staging &staging) const {
  return staging.ticket
             ? driver_->check(driver_->eventSynchronize(staging.event), "eventSynchronize")
             : Status();
}

Result<Device::Transfer> CudaDevice::beginCopy(std::byte *target, const std::byte *source,
                                               uint64_t bytes) {
  if (faultAt(FaultPoint::copy))
    return ioError("a copy to the device failed");
  const std::lock_guard lock(stagingMutex_);
  MOEPLAN_TRY(use());
  for (uint64_t done = 0; done < bytes; done += kStagingBytes) {
    const uint64_t part = std::min(kStagingBytes, bytes - done);
    Staging &staging = staging_[(lastTicket_ + 1) % staging_.size()];
    MOEPLAN_TRY(waitFor(staging));
    std::memcpy(staging.memory.data(), source + done, part);
    MOEPLAN_CUDA(*driver_, copyToDeviceAsync, addressOf(target + done), staging.memory.data(), part,
                 copies_);
    MOEPLAN_CUDA(*driver_, eventRecord, staging.event, copies_);
    staging.ticket = ++lastTicket_;
  }
  return Transfer{{}, lastTicket_};
}

Status CudaDevice::finish(const Transfer &transfer) {
  if (transfer.ticket == 0)
    return {};
  const std::lock_guard lock(stagingMutex_);
  const Staging &staging = staging_[transfer.ticket % staging_.size()];
  // Whoever has used the buffer since has waited for it.
  if (staging.ticket != transfer.ticket)
    return {};
  MOEPLAN_TRY(use());
  return waitFor(staging);
}

Status CudaDevice::run(cuda::Function function, unsigned blocks, unsigned threads,
                       void **parameters) {
  MOEPLAN_TRY(use());
  MOEPLAN_CUDA(*driver_, launchKernel, function, blocks, 1, 1, threads, 1, 1, 0, copies_,
               parameters, nullptr);
  return driver_->check(driver_->streamSynchronize(copies_), "streamSynchronize");
}

Status CudaDevice::readBack(std::byte *target, const std::byte *source, uint64_t bytes) {
  MOEPLAN_TRY(use());
  MOEPLAN_CUDA(*driver_, copyToHostAsync, target, addressOf(source), bytes, copies_);
  return driver_->check(driver_->streamSynchronize(copies_), "streamSynchronize");
}

template <typename Copy>
Result<double> CudaDevice::measureBandwidth(uint64_t bytes, uint32_t repetitions, Copy &&copy) {
  CudaTimer timer(*this);
  double best = 0;
  for (uint32_t repetition = 0; repetition <= repetitions; ++repetition) { // the first warms up
    MOEPLAN_TRY(timer.begin(copies_));
    MOEPLAN_TRY(copy());
    MOEPLAN_ASSIGN(const double seconds, timer.end(copies_));
    if (repetition > 0)
      best = std::max(best, static_cast<double>(bytes) / std::max(seconds, 1e-9));
  }
  return best;
}

Result<double> CudaDevice::measureCopyBandwidth(uint64_t bytes, uint32_t repetitions) {
  MOEPLAN_ASSIGN(const DeviceMemory target, allocate(bytes, "measured copies"));
  MOEPLAN_ASSIGN(const DeviceMemory source, allocate(bytes, "measured copies"));
  return measureBandwidth(2 * bytes, repetitions, [&] {
    return driver_->check(driver_->copyOnDeviceAsync(addressOf(target.data()),
                                                     addressOf(source.data()), bytes, copies_),
                          "copyOnDeviceAsync");
  });
}

Result<double> CudaDevice::measureLinkBandwidth(uint64_t bytes, uint32_t repetitions) {
  MOEPLAN_ASSIGN(const DeviceMemory target, allocate(bytes, "measured copies"));
  MOEPLAN_ASSIGN(const PinnedMemory source, allocatePinned(bytes));
  return measureBandwidth(bytes, repetitions, [&] {
    return driver_->check(
        driver_->copyToDeviceAsync(addressOf(target.data()), source.data(), bytes, copies_),
        "copyToDeviceAsync");
  });
}

CudaTimer::~CudaTimer() {
  if (!device_.use().ok())
    return;
  for (const cuda::Event event : {begin_, end_})
    if (event)
      device_.driver().eventDestroy(event);
}

Status CudaTimer::begin(cuda::Stream stream) {
  MOEPLAN_TRY(device_.use());
  const cuda::Driver &driver = device_.driver();
  if (!begin_)
    MOEPLAN_CUDA(driver, eventCreate, &begin_, cuda::kEventDefault);
  if (!end_)
    MOEPLAN_CUDA(driver, eventCreate, &end_, cuda::kEventDefault);
  return driver.check(driver.eventRecord(begin_, stream), "eventRecord");
}

Result<double> CudaTimer::end(cuda::Stream stream) {
  const cuda::Driver &driver = device_.driver();
  MOEPLAN_CUDA(driver, eventRecord, end_, stream);
  MOEPLAN_CUDA(driver, eventSynchronize, end_);
  float milliseconds = 0;
  MOEPLAN_CUDA(driver, eventElapsedTime, &milliseconds, begin_, end_);
  return static_cast<double>(milliseconds) / 1e3;
}

} // namespace moeplan
