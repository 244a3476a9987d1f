#include "runtime/device/device.h"

#include "runtime/device/cuda/cuda_device.h"
#include "runtime/device/emulated_device.h"
#include "runtime/support/fault.h"

#include <cstring>
#include <utility>

namespace moeplan {

namespace {

/// The host: weights are read where they are mapped.
class CpuDevice : public Device {
public:
  const char *name() const override { return "cpu"; }
  bool hasOwnMemory() const override { return false; }
  Result<Transfer> beginCopy(std::byte *, const std::byte *, uint64_t) override {
    return unsupported("the cpu device has no memory of its own");
  }
  Transfer beginReading(uint64_t) override { return {}; }
  Status finish(const Transfer &) override { return {}; }
};

} // namespace

Result<std::unique_ptr<Device>> Device::create(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  const std::string_view options =
      colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  if (kind == "emu")
    return EmulatedDevice::create(options);
  if (kind == "cuda")
    return CudaDevice::create(options);
  if (kind != "cpu")
    return invalidArgument("no device '" + std::string(kind) + "'; there are cpu, cuda and emu");
  if (colon != std::string_view::npos)
    return invalidArgument("device 'cpu' has no options");
  return std::unique_ptr<Device>(std::make_unique<CpuDevice>());
}

uint64_t Device::available() const {
  const uint64_t budget = budget_, used = used_;
  return budget > used ? budget - used : 0;
}

Result<DeviceMemory> Device::count(uint64_t bytes, const char *purpose) {
  const std::lock_guard lock(mutex_);
  if (bytes > available() || faultAt(FaultPoint::allocation))
    return exhausted(std::string("no device memory for the ") + purpose + ": " +
                     std::to_string(bytes) + " bytes wanted, " + std::to_string(available()) +
                     " of " + std::to_string(budget()) + " left");
  used_ += bytes;
  return DeviceMemory(this, bytes);
}

Result<DeviceMemory> Device::allocate(uint64_t bytes, const char *purpose) {
  MOEPLAN_ASSIGN(DeviceMemory memory, count(bytes, purpose));
  MOEPLAN_ASSIGN(memory.block_, take(bytes, /*zeroed=*/true));
  if (!memory.block_) {
    MOEPLAN_ASSIGN(memory.memory_, HostMemory::allocate(bytes, purpose));
  }
  return memory;
}

Result<DeviceMemory> Device::allocateForWeights(uint64_t bytes) {
  MOEPLAN_ASSIGN(DeviceMemory memory, count(bytes, "weights"));
  MOEPLAN_ASSIGN(memory.block_, take(bytes, /*zeroed=*/false));
  if (!memory.block_) {
    MOEPLAN_ASSIGN(memory.block_, pool_.allocate(bytes, "weights"));
  }
  return memory;
}

Status Device::readBack(std::byte *target, const std::byte *source, uint64_t bytes) {
  std::memcpy(target, source, bytes);
  return {};
}

DeviceMemory::~DeviceMemory() {
  if (block_ && device_->cuda())
    device_->give(block_);
  else if (block_)
    device_->pool_.release(block_, bytes_);
  if (device_)
    device_->used_ -= bytes_;
}

DeviceMemory::DeviceMemory(DeviceMemory &&other) noexcept
    : device_(std::exchange(other.device_, nullptr)), bytes_(std::exchange(other.bytes_, 0)),
      memory_(std::move(other.memory_)), block_(std::exchange(other.block_, nullptr)) {}

DeviceMemory &DeviceMemory::operator=(DeviceMemory &&other) noexcept {
  std::swap(device_, other.device_);
  std::swap(bytes_, other.bytes_);
  std::swap(memory_, other.memory_);
  std::swap(block_, other.block_);
  return *this;
}

} // namespace moeplan
