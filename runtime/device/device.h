// What plans run on: a processor, the memory it reads weights from, and the link between that and
// the host's.
#pragma once

#include "runtime/device/memory.h"
#include "runtime/device/memory_pool.h"
#include "runtime/support/status.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace moeplan {

class CudaDevice;
class Device;

/// Memory of a device, counted against its budget until it is destroyed. The device must outlive
/// it.
class DeviceMemory {
public:
  DeviceMemory() = default;
  ~DeviceMemory();
  DeviceMemory(DeviceMemory &&other) noexcept;
  DeviceMemory &operator=(DeviceMemory &&other) noexcept;

  /// Null where only bytes are counted. On a cuda device the host must not read it.
  std::byte *data() const { return block_ ? block_ : memory_.data(); }
  uint64_t bytes() const { return bytes_; }

private:
  friend class Device;
  DeviceMemory(Device *device, uint64_t bytes) : device_(device), bytes_(bytes) {}

  Device *device_ = nullptr;
  uint64_t bytes_ = 0;
  HostMemory memory_;
  std::byte *block_ = nullptr; ///< of the device's pool, or taken from it
};

/// May be used from any number of threads.
class Device {
public:
  static constexpr uint64_t kNoBudget = std::numeric_limits<uint64_t>::max();

  /// "cpu", or "emu" or "cuda" with options behind a colon:
  /// "emu:device_memory=24GiB,copy=25GB/s,latency=10us", "cuda:0,device_memory=24GiB". Errors:
  /// MOEPLAN_INVALID_ARGUMENT, saying what is wrong and what could be.
  static Result<std::unique_ptr<Device>> create(std::string_view text);
  virtual ~Device() = default;

  virtual const char *name() const = 0;
  /// Whether kernels read weights from a memory that is not the host's, so that they are copied.
  virtual bool hasOwnMemory() const = 0;
  /// This, where programs of cuda kernels run on it; else null, and programs run on the CPU.
  virtual CudaDevice *cuda() { return nullptr; }
  /// Of the link to the host's memory, in bytes per second; 0: there is no link, or one that is as
  /// fast as memory.
  virtual double copyBandwidth() const { return 0; }
  /// Something that is on its way over the link.
  struct Transfer {
    std::chrono::steady_clock::time_point end;
    uint64_t ticket = 0; ///< of a cuda device's copy
  };
  /// Sends `bytes` from `source` in the host's memory to `target` in the device's; both must stay
  /// until finish(). Errors: MOEPLAN_IO_ERROR.
  virtual Result<Transfer> beginCopy(std::byte *target, const std::byte *source,
                                     uint64_t bytes) = 0;
  /// Lets kernels read `bytes` over the link.
  virtual Transfer beginReading(uint64_t bytes) = 0;
  /// Returns when `transfer` has passed. Errors: MOEPLAN_IO_ERROR: it has not.
  virtual Status finish(const Transfer &transfer) = 0;
  /// Copies `bytes` from `source` in the device's memory. Errors: MOEPLAN_IO_ERROR.
  virtual Status readBack(std::byte *target, const std::byte *source, uint64_t bytes);

  /// Bytes that may be allocated at a time. Memory that is in use stays so when it is lowered.
  uint64_t budget() const { return budget_; }
  void setBudget(uint64_t bytes) { budget_ = bytes; }
  uint64_t used() const { return used_; }
  uint64_t available() const;

  /// Zeroed memory that is counted. Errors: MOEPLAN_RESOURCE_EXHAUSTED beyond the budget or the
  /// machine's memory, naming `purpose`.
  Result<DeviceMemory> allocate(uint64_t bytes, const char *purpose);
  /// The same for weights: what is in it is undefined, and it comes from a pool.
  Result<DeviceMemory> allocateForWeights(uint64_t bytes);
  /// Counts memory that is there already: weights that are mapped.
  Result<DeviceMemory> count(uint64_t bytes, const char *purpose);

protected:
  /// Memory of the device itself, for devices that have such; null: it is the host's.
  virtual Result<std::byte *> take(uint64_t bytes, bool zeroed) {
    return static_cast<std::byte *>(nullptr);
  }
  virtual void give(std::byte *block) {}

private:
  friend class DeviceMemory;

  std::atomic<uint64_t> budget_{kNoBudget}, used_{0};
  std::mutex mutex_; ///< held while memory is counted
  MemoryPool pool_;
};

} // namespace moeplan
