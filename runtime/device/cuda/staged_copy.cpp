#include "runtime/device/cuda/staged_copy.h"

#include "runtime/support/fault.h"
#include "runtime/support/part_reader.h"

#include <algorithm>
#include <utility>

namespace moeplan {

StagedCopy::~StagedCopy() {
  (void)finish();
  if (device_.use().ok())
    for (const Buffer &buffer : buffers_)
      if (buffer.sent)
        device_.driver().eventDestroy(buffer.sent);
}

Status StagedCopy::prepare() {
  MOEPLAN_TRY(device_.use());
  for (Buffer &buffer : buffers_) {
    if (!buffer.memory.data()) {
      MOEPLAN_ASSIGN(buffer.memory, device_.allocatePinned(kPartBytes));
    }
    if (!buffer.sent)
      MOEPLAN_CUDA(device_.driver(), eventCreate, &buffer.sent, cuda::kEventDisableTiming);
  }
  return {};
}

Status StagedCopy::waitFor(Buffer &buffer) const {
  if (!std::exchange(buffer.isUnderWay, false))
    return {};
  MOEPLAN_TRY(device_.use());
  return device_.driver().check(device_.driver().eventSynchronize(buffer.sent), "eventSynchronize");
}

Status StagedCopy::copy(std::byte *target, uint64_t bytes, const Read &read, const See &see) {
  MOEPLAN_TRY(prepare());
  Status status = copyParts(target, bytes, read, see);
  if (!status.ok()) { // nothing may arrive any more when the target goes
    (void)device_.driver().streamSynchronize(device_.copyStream());
    (void)finish();
  }
  return status;
}

Status StagedCopy::copyParts(std::byte *target, uint64_t bytes, const Read &read, const See &see) {
  const uint64_t parts = (bytes + kPartBytes - 1) / kPartBytes, first = first_;
  const auto bufferOf = [&](uint64_t part) -> Buffer & {
    return buffers_[(first + part) % kBuffers];
  };
  const auto sizeOf = [&](uint64_t part) {
    return std::min(kPartBytes, bytes - part * kPartBytes);
  };
  PartReader reader(parts, kBuffers, kThreads, [&](uint64_t part) -> Status {
    Buffer &buffer = bufferOf(part);
    MOEPLAN_TRY(waitFor(buffer));
    return read(part * kPartBytes, {buffer.memory.data(), sizeOf(part)});
  });
  const cuda::Driver &driver = device_.driver();
  for (uint64_t part = 0; part < parts; ++part) {
    Buffer &buffer = bufferOf(part);
    MOEPLAN_TRY(reader.take(part));
    MOEPLAN_TRY(see({buffer.memory.data(), sizeOf(part)}));
    if (faultAt(FaultPoint::copy))
      return ioError("a copy to the device failed");
    const auto address = reinterpret_cast<uintptr_t>(target + part * kPartBytes);
    MOEPLAN_CUDA(driver, copyToDeviceAsync, address, buffer.memory.data(), sizeOf(part),
                 device_.copyStream());
    buffer.isUnderWay = true;
    MOEPLAN_CUDA(driver, eventRecord, buffer.sent, device_.copyStream());
    first_ = first + part + 1;
    reader.release(part);
  }
  return {};
}

Status StagedCopy::finish() {
  Status status;
  for (Buffer &buffer : buffers_)
    if (Status waited = waitFor(buffer); status.ok())
      status = std::move(waited);
  return status;
}

} // namespace moeplan
