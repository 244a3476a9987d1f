#include "runtime/residency/residency.h"

#include "runtime/support/fault.h"
#include "runtime/support/hash.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace moeplan {

namespace {

/// Bytes between two looks at the clock.
constexpr uint64_t kPartBytes = 1 << 20;

} // namespace

Residency::Residency(const Artifact &artifact, Device &device)
    : artifact_(artifact), device_(device) {
  for (std::vector<Entry> &entries : entries_)
    entries.resize(artifact.metadata().segments()->size());
}

uint64_t Residency::bytesOf(uint32_t segment) const {
  return artifact_.metadata().segments()->Get(segment)->extent()->bytes();
}

std::string Residency::nameOf(uint32_t segment) const {
  return artifact_.metadata().segments()->Get(segment)->name()->str();
}

const std::byte *Residency::address(Held held) const {
  if (held.memory == fb::Residency::host)
    return artifact_.weight(held.segment).data();
  const std::lock_guard lock(mutex_);
  return entry(held).memory.data();
}

bool Residency::isHeld(Held held) const {
  const std::lock_guard lock(mutex_);
  return entry(held).references > 0;
}

bool Residency::adopt(Held held) {
  const std::lock_guard lock(mutex_);
  if (entry(held).references == 0)
    return false;
  ++entry(held).references;
  return true;
}

Status Residency::acquire(Held held, const Staging &staging) {
  const std::lock_guard oneAtATime(stagingMutex_);
  if (adopt(held))
    return {};
  auto memory = bringIn(held, staging);
  if (!memory.ok())
    return std::move(memory).status().withContext("segment '" + nameOf(held.segment) + "'");
  const std::lock_guard lock(mutex_);
  entry(held).memory = std::move(memory).value();
  entry(held).references = 1;
  return {};
}

void Residency::release(Held held) {
  DeviceMemory memory;
  {
    const std::lock_guard lock(mutex_);
    if (--entry(held).references > 0)
      return;
    std::swap(memory, entry(held).memory);
  }
  counters_.releasedBytes += bytesOf(held.segment);
  if (held.memory == fb::Residency::host)
    artifact_.release(held.segment);
}

Result<DeviceMemory> Residency::bringIn(Held held, const Staging &staging) {
  const uint64_t bytes = bytesOf(held.segment);
  const bool onDevice = held.memory == fb::Residency::device;
  if (onDevice && !device_.hasOwnMemory())
    return unsupported(std::string("the ") + device_.name() + " device has no memory of its own");
  DeviceMemory memory;
  if (onDevice) {
    MOEPLAN_ASSIGN(memory, device_.allocateForWeights(bytes));
  } else if (counts(held.memory)) {
    MOEPLAN_ASSIGN(memory, device_.count(bytes, "weights"));
  }
  if (onDevice || !staging.onDemand)
    if (Status status = copyParts(held.segment, memory.data(), staging); !status.ok()) {
      device_.finish(std::exchange(copying_, {})); // before its target goes
      return status;
    }
  counters_.stagedBytes += bytes;
  if (onDevice) {
    counters_.copiedBytes += bytes;
    releaseSource(held.segment);
  }
  return memory;
}

/// Leaves the rest of the time to others; what it sleeps too long is taken off the next time, of
/// whichever weight.
void Residency::rest(Clock::duration worked, double share) {
  constexpr std::chrono::microseconds kShortest(200);
  restDue_ += std::chrono::duration_cast<Clock::duration>(worked * (1 / share - 1));
  if (restDue_ < kShortest)
    return;
  const Clock::time_point begin = Clock::now();
  std::this_thread::sleep_for(restDue_);
  restDue_ -= Clock::now() - begin;
}

/// Reads the weight part by part, to `target` on the device where there is one, and checks it.
Status Residency::copyParts(uint32_t segment, std::byte *target, const Staging &staging) {
  const std::span<const std::byte> source = artifact_.weight(segment);
  Hasher hasher;
  for (uint64_t begin = 0; begin < source.size(); begin += kPartBytes) {
    if (staging.keepGoing && !staging.keepGoing())
      return Status(MOEPLAN_CANCELLED, "staging was cancelled");
    const Clock::time_point start = Clock::now();
    const auto part = source.subspan(begin, std::min(kPartBytes, source.size() - begin));
    MOEPLAN_TRY(artifact_.bringIn(segment, begin, part.size()));
    if (target) {
      MOEPLAN_ASSIGN(const Device::Transfer transfer,
                     device_.beginCopy(target + begin, part.data(), part.size()));
      hasher.update(part);
      device_.finish(std::exchange(copying_, transfer));
    } else {
      hasher.update(part);
    }
    rest(Clock::now() - start, staging.share);
  }
  return checkSum(segment, hasher.digest());
}

void Residency::finishCopies() {
  const std::lock_guard lock(stagingMutex_);
  device_.finish(std::exchange(copying_, {}));
}

/// Gives pages back that were read only to be copied: many at a time, since it interrupts every
/// thread.
void Residency::releaseSource(uint32_t segment) {
  constexpr uint64_t kMost = uint64_t(256) << 20;
  copiedSources_.push_back(segment);
  copiedSourceBytes_ += bytesOf(segment);
  if (copiedSourceBytes_ < kMost)
    return;
  for (uint32_t copied : copiedSources_)
    if (!isHeld({copied, fb::Residency::host}))
      artifact_.release(copied);
  copiedSources_.clear();
  copiedSourceBytes_ = 0;
}

Status Residency::checkSum(uint32_t segment, uint64_t digest) const {
  const fb::Segment &metadata = *artifact_.metadata().segments()->Get(segment);
  if (faultAt(FaultPoint::checksum) ||
      (!metadata.synthetic() && digest != metadata.extent()->checksum()))
    return corrupt("checksum does not match");
  return {};
}

bool Residency::isIntact(Held held) const {
  if (artifact_.metadata().segments()->Get(held.segment)->synthetic())
    return true;
  if (held.memory == fb::Residency::host &&
      !artifact_.bringIn(held.segment, 0, bytesOf(held.segment)).ok())
    return false;
  const std::byte *data = address(held);
  return !data || XXH3_64bits(data, bytesOf(held.segment)) ==
                      artifact_.metadata().segments()->Get(held.segment)->extent()->checksum();
}

Status Residency::repair(Held held) {
  const std::lock_guard oneAtATime(stagingMutex_);
  auto *target = const_cast<std::byte *>(address(held));
  Status status = copyParts(held.segment, target, {});
  device_.finish(std::exchange(copying_, {}));
  return std::move(status).withContext("segment '" + nameOf(held.segment) + "'");
}

Lease::~Lease() {
  for (const Held &held : held_)
    residency_->release(held);
}

Status Lease::acquire(Held held, const Staging &staging) {
  MOEPLAN_TRY(residency_->acquire(held, staging));
  held_.insert(std::upper_bound(held_.begin(), held_.end(), held), held);
  return {};
}

bool Lease::adopt(Held held) {
  if (!residency_->adopt(held))
    return false;
  held_.insert(std::upper_bound(held_.begin(), held_.end(), held), held);
  return true;
}

void Lease::release(Held held) {
  const auto at = std::lower_bound(held_.begin(), held_.end(), held);
  if (at == held_.end() || *at != held)
    return;
  held_.erase(at);
  residency_->release(held);
}

void Lease::releaseGently() {
  constexpr std::chrono::microseconds kPause(200);
  while (!held_.empty()) {
    const Held held = held_.back();
    held_.pop_back();
    residency_->release(held);
    if (held.memory == fb::Residency::host && !residency_->isHeld(held))
      std::this_thread::sleep_for(kPause);
  }
}

bool Lease::has(Held held) const { return std::binary_search(held_.begin(), held_.end(), held); }

} // namespace moeplan
