#include "runtime/residency/residency.h"

#include "runtime/support/fault.h"
#include "runtime/support/hash.h"
#include "runtime/support/part_reader.h"

#include <algorithm>
#include <chrono>
#include <cstring>
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
  if (CudaDevice *cuda = device.cuda())
    toCuda_.emplace(*cuda);
}

uint64_t Residency::bytesOf(uint32_t segment) const {
  return artifact_.metadata().segments()->Get(segment)->extent()->bytes();
}

std::string Residency::nameOf(uint32_t segment) const {
  return artifact_.metadata().segments()->Get(segment)->name()->str();
}

const std::byte *Residency::address(Held held) const {
  if (held.memory == fb::Residency::host && !device_.cuda())
    return artifact_.weight(held.segment).data();
  const std::lock_guard lock(mutex_);
  return held.memory == fb::Residency::host ? entry(held).pinned.onDevice()
                                            : entry(held).memory.data();
}

const std::byte *Residency::hostAddress(Held held) const {
  if (held.memory == fb::Residency::device)
    return device_.cuda() ? nullptr : address(held);
  const std::lock_guard lock(mutex_);
  const std::byte *pinned = entry(held).pinned.data();
  return pinned ? pinned : artifact_.weight(held.segment).data();
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
  Entry brought;
  brought.references = 1;
  MOEPLAN_TRY(
      bringIn(held, staging, brought).withContext("segment '" + nameOf(held.segment) + "'"));
  const std::lock_guard lock(mutex_);
  std::swap(entry(held), brought);
  return {};
}

void Residency::release(Held held) {
  Entry given;
  {
    const std::lock_guard lock(mutex_);
    if (--entry(held).references > 0)
      return;
    std::swap(given, entry(held));
  }
  counters_.releasedBytes += bytesOf(held.segment);
  if (held.memory == fb::Residency::host)
    artifact_.release(held.segment);
}

Status Residency::bringIn(Held held, const Staging &staging, Entry &entry) {
  const uint64_t bytes = bytesOf(held.segment);
  const bool onDevice = held.memory == fb::Residency::device;
  if (onDevice && !device_.hasOwnMemory())
    return unsupported(std::string("the ") + device_.name() + " device has no memory of its own");
  const bool pinned = !onDevice && device_.cuda();
  if (onDevice) {
    MOEPLAN_ASSIGN(entry.memory, device_.allocateForWeights(bytes));
  } else if (pinned) {
    MOEPLAN_ASSIGN(entry.pinned, device_.cuda()->allocatePinned(bytes));
  } else if (counts(held.memory)) {
    MOEPLAN_ASSIGN(entry.memory, device_.count(bytes, "weights"));
  }
  std::byte *target = pinned ? entry.pinned.data() : entry.memory.data();
  if (onDevice || pinned || !staging.onDemand)
    if (Status status = copyParts(held, target, staging); !status.ok()) {
      (void)finishCopying(); // before its target goes
      return status;
    }
  counters_.stagedBytes += bytes;
  if (onDevice)
    counters_.copiedBytes += bytes;
  if (onDevice || pinned)
    releaseSource(held.segment);
  return {};
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

/// Reads the weight part by part, to `target` in the memory that holds it where there is one, and
/// checks it.
Status Residency::copyParts(Held held, std::byte *target, const Staging &staging) {
  const uint32_t segment = held.segment;
  if (!artifact_.hasBytes(segment))
    return target ? generateParts(held, target, staging) : Status();
  if (toCuda_ && target)
    return readParts(held, target, staging);
  const std::span<const std::byte> source = artifact_.weight(segment);
  Hasher hasher;
  artifact_.readAhead(segment);
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
      MOEPLAN_TRY(device_.finish(std::exchange(copying_, transfer)));
    } else {
      hasher.update(part);
    }
    rest(Clock::now() - start, staging.share);
  }
  return checkSum(segment, hasher.digest());
}

/// The same on a cuda device: straight into the host's copy, or into what waits for the link. While
/// it is read by several threads, what has been is hashed here.
Status Residency::readParts(Held held, std::byte *target, const Staging &staging) {
  const uint64_t bytes = bytesOf(held.segment);
  artifact_.readAhead(held.segment);
  Hasher hasher;
  Clock::time_point start = Clock::now();
  const auto see = [&](std::span<const std::byte> part) -> Status {
    if (staging.keepGoing && !staging.keepGoing())
      return Status(MOEPLAN_CANCELLED, "staging was cancelled");
    hasher.update(part);
    rest(Clock::now() - start, staging.share);
    start = Clock::now();
    return {};
  };
  if (held.memory == fb::Residency::device) {
    MOEPLAN_TRY(toCuda_->copy(
        target, bytes,
        [&](uint64_t begin, std::span<std::byte> buffer) {
          return artifact_.read(held.segment, begin, buffer);
        },
        see));
    return checkSum(held.segment, hasher.digest());
  }
  const uint64_t parts = (bytes + kPartBytes - 1) / kPartBytes;
  const auto partOf = [&](uint64_t part) -> std::span<std::byte> {
    return {target + part * kPartBytes, std::min(kPartBytes, bytes - part * kPartBytes)};
  };
  PartReader reader(parts, parts, StagedCopy::kThreads, [&](uint64_t part) {
    return artifact_.read(held.segment, part * kPartBytes, partOf(part));
  });
  for (uint64_t part = 0; part < parts; ++part) {
    MOEPLAN_TRY(reader.take(part));
    MOEPLAN_TRY(see(partOf(part)));
    reader.release(part);
  }
  return checkSum(held.segment, hasher.digest());
}

/// The same for a synthetic weight that the host does not keep.
Status Residency::generateParts(Held held, std::byte *target, const Staging &staging) {
  const bool onDevice = held.memory == fb::Residency::device;
  const uint64_t bytes = bytesOf(held.segment);
  if (onDevice && generator_) {
    if (staging.keepGoing && !staging.keepGoing())
      return Status(MOEPLAN_CANCELLED, "staging was cancelled");
    const Clock::time_point start = Clock::now();
    Status status = generator_->generate(held.segment, target);
    rest(Clock::now() - start, staging.share);
    // There may be room for a weight, but not for what it is made from.
    if (status.code() != MOEPLAN_RESOURCE_EXHAUSTED)
      return status.ok() ? checkSum(held.segment, 0) : std::move(status);
  }
  std::vector<std::byte> made(onDevice ? std::min(kPartBytes, bytes) : 0);
  for (uint64_t begin = 0; begin < bytes; begin += kPartBytes) {
    if (staging.keepGoing && !staging.keepGoing())
      return Status(MOEPLAN_CANCELLED, "staging was cancelled");
    const Clock::time_point start = Clock::now();
    const uint64_t count = std::min(kPartBytes, bytes - begin);
    const std::span part(onDevice ? made.data() : target + begin, count);
    artifact_.generate(held.segment, begin, part);
    if (onDevice) {
      MOEPLAN_ASSIGN(const Device::Transfer transfer,
                     device_.beginCopy(target + begin, part.data(), count));
      MOEPLAN_TRY(device_.finish(transfer));
    }
    rest(Clock::now() - start, staging.share);
  }
  return checkSum(held.segment, 0); // there is none, but for tests that let it fail
}

Status Residency::finishCopies() {
  const std::lock_guard lock(stagingMutex_);
  return finishCopying();
}

Status Residency::finishCopying() {
  return toCuda_ ? toCuda_->finish() : device_.finish(std::exchange(copying_, {}));
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
  const uint64_t bytes = bytesOf(held.segment);
  const uint64_t checksum =
      artifact_.metadata().segments()->Get(held.segment)->extent()->checksum();
  if (const std::byte *data = hostAddress(held))
    return XXH3_64bits(data, bytes) == checksum;
  const std::byte *data = address(held);
  if (!data)
    return true; // not held
  Hasher hasher;
  std::vector<std::byte> part(std::min(kPartBytes, bytes));
  for (uint64_t begin = 0; begin < bytes; begin += kPartBytes) {
    const uint64_t size = std::min(kPartBytes, bytes - begin);
    if (!device_.readBack(part.data(), data + begin, size).ok())
      return false;
    hasher.update(std::span(part).first(size));
  }
  return hasher.digest() == checksum;
}

Status Residency::repair(Held held) {
  const std::lock_guard oneAtATime(stagingMutex_);
  // The mapped file of a host without copies is only read again.
  const bool copied = held.memory == fb::Residency::device || device_.cuda();
  const std::byte *host = copied ? hostAddress(held) : nullptr;
  auto *target = const_cast<std::byte *>(host ? host : address(held));
  Status status = copyParts(held, copied ? target : nullptr, {});
  Status finished = finishCopying();
  if (status.ok())
    status = std::move(finished);
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
