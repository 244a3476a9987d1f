#include "runtime/device/emulated_device.h"

#include "runtime/support/fault.h"
#include "runtime/support/quantities.h"

#include <algorithm>
#include <cstring>
#include <thread>

namespace moeplan {

namespace {

/// Sleeping is not to be trusted with less.
constexpr std::chrono::microseconds kSpin(60);

EmulatedLink::Clock::duration toDuration(double seconds) {
  return std::chrono::duration_cast<EmulatedLink::Clock::duration>(
      std::chrono::duration<double>(seconds));
}

} // namespace

EmulatedLink::Clock::time_point EmulatedLink::begin(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  if (free_ < now)
    free_ = now + toDuration(latency_);
  if (bytesPerSecond_ > 0)
    free_ += toDuration(static_cast<double>(bytes) / bytesPerSecond_);
  return free_;
}

void EmulatedLink::waitUntil(Clock::time_point time) {
  if (time - Clock::now() > kSpin)
    std::this_thread::sleep_until(time - kSpin);
  while (Clock::now() < time)
    std::this_thread::yield();
}

Result<std::unique_ptr<Device>> EmulatedDevice::create(std::string_view options) {
  uint64_t memory = kNoBudget;
  double copy = 0, latency = 0;
  auto wrong = [](std::string_view option, const char *expected) {
    return invalidArgument("device 'emu': '" + std::string(option) + "': " + expected);
  };
  while (!options.empty()) {
    const std::string_view option = options.substr(0, options.find(','));
    options.remove_prefix(std::min(option.size() + 1, options.size()));
    const size_t equals = std::min(option.find('='), option.size());
    const std::string_view key = option.substr(0, equals);
    const std::string_view value = option.substr(std::min(equals + 1, option.size()));
    if (key == "device_memory") {
      const auto bytes = parseBytes(value);
      if (!bytes)
        return wrong(option, "bytes expected, as device_memory=24GiB");
      memory = *bytes;
    } else if (key == "copy") {
      const auto rate = parseBytesPerSecond(value);
      if (!rate)
        return wrong(option, "a bandwidth expected, as copy=25GB/s");
      copy = *rate;
    } else if (key == "latency") {
      const auto seconds = parseSeconds(value);
      if (!seconds)
        return wrong(option, "a time expected, as latency=10us");
      latency = *seconds;
    } else {
      return wrong(option, "the options are device_memory, copy and latency");
    }
  }
  std::unique_ptr<Device> device(new EmulatedDevice(copy, latency));
  device->setBudget(memory);
  return device;
}

Result<Device::Transfer> EmulatedDevice::beginCopy(std::byte *target, const std::byte *source,
                                                   uint64_t bytes) {
  if (faultAt(FaultPoint::copy))
    return ioError("a copy to the device failed");
  const Transfer transfer{link_.begin(bytes)};
  std::memcpy(target, source, bytes);
  return transfer;
}

Device::Transfer EmulatedDevice::beginReading(uint64_t bytes) { return {link_.begin(bytes)}; }

Status EmulatedDevice::finish(const Transfer &transfer) {
  EmulatedLink::waitUntil(transfer.end);
  return {};
}

} // namespace moeplan
