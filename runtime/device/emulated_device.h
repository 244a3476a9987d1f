// CPU kernels behind a memory of their own: placement and switching without a GPU.
#pragma once

#include "runtime/device/device.h"

#include <chrono>

namespace moeplan {

/// A link that is used by one transfer at a time. Whoever waits for it sees the times of the real
/// one, unless this machine's memory is slower. May be used from any number of threads.
class EmulatedLink {
public:
  using Clock = std::chrono::steady_clock;

  /// `bytesPerSecond` 0: takes no time.
  EmulatedLink(double bytesPerSecond, double latencySeconds)
      : bytesPerSecond_(bytesPerSecond), latency_(latencySeconds) {}

  double bytesPerSecond() const { return bytesPerSecond_; }
  /// Puts `bytes` behind what is under way; they have passed at the time that is returned. The
  /// latency is hidden behind earlier transfers.
  Clock::time_point begin(uint64_t bytes);
  /// Returns at `time`, to some microseconds.
  static void waitUntil(Clock::time_point time);

private:
  const double bytesPerSecond_, latency_;
  std::mutex mutex_;
  Clock::time_point free_{};
};

/// `device_memory`: its budget, at first; `copy`: bandwidth of the link; `latency` of a transfer.
/// Without them: unlimited, unlimited, none.
class EmulatedDevice : public Device {
public:
  /// `options` as "device_memory=24GiB,copy=25GB/s,latency=10us"; may be empty.
  static Result<std::unique_ptr<Device>> create(std::string_view options);

  const char *name() const override { return "emu"; }
  bool hasOwnMemory() const override { return true; }
  double copyBandwidth() const override { return link_.bytesPerSecond(); }
  Result<Transfer> beginCopy(std::byte *target, const std::byte *source, uint64_t bytes) override;
  Transfer beginReading(uint64_t bytes) override;
  Status finish(const Transfer &transfer) override;

private:
  EmulatedDevice(double copyBandwidth, double latency) : link_(copyBandwidth, latency) {}

  EmulatedLink link_;
};

} // namespace moeplan
