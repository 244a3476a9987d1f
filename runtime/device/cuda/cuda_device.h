// NVIDIA GPUs, through the driver.
#pragma once

#include "runtime/device/cuda/driver.h"
#include "runtime/device/device.h"

#include <array>
#include <string>

namespace moeplan {

class CudaDevice;

/// Memory of the host that the device reads over the link. The device must outlive it.
class PinnedMemory {
public:
  PinnedMemory() = default;
  ~PinnedMemory();
  PinnedMemory(PinnedMemory &&other) noexcept;
  PinnedMemory &operator=(PinnedMemory &&other) noexcept;

  std::byte *data() const { return data_; }
  /// The same memory, as kernels see it.
  const std::byte *onDevice() const { return onDevice_; }

private:
  friend class CudaDevice;
  CudaDevice *device_ = nullptr;
  std::byte *data_ = nullptr, *onDevice_ = nullptr;
};

/// Takes the time of what a stream does between two calls. The device must outlive it.
class CudaTimer {
public:
  explicit CudaTimer(const CudaDevice &device) : device_(device) {}
  ~CudaTimer();
  CudaTimer(const CudaTimer &) = delete;
  CudaTimer &operator=(const CudaTimer &) = delete;

  Status begin(cuda::Stream stream);
  /// Waits for the stream; seconds since begin().
  Result<double> end(cuda::Stream stream);

private:
  const CudaDevice &device_;
  cuda::Event begin_ = nullptr, end_ = nullptr;
};

/// Addresses in its memory are `std::byte *` that the host must not read.
class CudaDevice : public Device {
public:
  /// `options` as "1,device_memory=24GiB": which device, and its budget. May be empty.
  static Result<std::unique_ptr<Device>> create(std::string_view options);
  ~CudaDevice() override;

  const char *name() const override { return "cuda"; }
  bool hasOwnMemory() const override { return true; }
  CudaDevice *cuda() override { return this; }
  Result<Transfer> beginCopy(std::byte *target, const std::byte *source, uint64_t bytes) override;
  Transfer beginReading(uint64_t) override { return {}; }
  Status finish(const Transfer &transfer) override;
  Status readBack(std::byte *target, const std::byte *source, uint64_t bytes) override;

  /// Makes the device the one that the calling thread's driver calls are for.
  Status use() const;
  const cuda::Driver &driver() const { return *driver_; }
  /// That all copies to the device are put on, and nothing of a session's.
  cuda::Stream copyStream() const { return copies_; }
  /// 90 for compute capability 9.0.
  unsigned capability() const { return capability_; }
  /// "NVIDIA H100".
  const std::string &model() const { return model_; }

  /// Bytes per second, read and written together, of copying `bytes` within the device's memory:
  /// the best of `repetitions`. Errors: MOEPLAN_RESOURCE_EXHAUSTED.
  Result<double> measureCopyBandwidth(uint64_t bytes, uint32_t repetitions);

  /// The same of copying them here from pinned memory, read alone.
  Result<double> measureLinkBandwidth(uint64_t bytes, uint32_t repetitions);

  /// Undefined bytes. Errors: MOEPLAN_RESOURCE_EXHAUSTED.
  Result<PinnedMemory> allocatePinned(uint64_t bytes);

  /// Launches a kernel behind the copies that have begun, and returns when it has run.
  Status run(cuda::Function function, unsigned blocks, unsigned threads, void **parameters);

protected:
  Result<std::byte *> take(uint64_t bytes, bool zeroed) override;
  void give(std::byte *block) override;

private:
  friend class PinnedMemory;
  CudaDevice() = default;
  Status open(int ordinal);
  /// Of `bytes` that `copy`, which returns a Status, puts on the stream of copies.
  template <typename Copy>
  Result<double> measureBandwidth(uint64_t bytes, uint32_t repetitions, Copy &&copy);

  /// Staging buffers go round: what is copied waits in one for the link.
  static constexpr uint64_t kStagingBytes = 1 << 20;
  struct Staging {
    PinnedMemory memory;
    cuda::Event event = nullptr;
    uint64_t ticket = 0; ///< of the copy that uses it; 0: none has yet
  };
  Status waitFor(const Staging &staging) const;

  std::unique_ptr<cuda::Driver> driver_;
  int device_ = -1;
  cuda::Context context_ = nullptr;
  cuda::Stream copies_ = nullptr;
  unsigned capability_ = 0;
  std::string model_;

  std::mutex stagingMutex_;
  std::array<Staging, 4> staging_;
  uint64_t lastTicket_ = 0;
};

} // namespace moeplan
