#include "runtime/session/loaded_plan.h"

#include "runtime/artifact/programs.h"
#include "runtime/support/fault.h"

#include <algorithm>
#include <utility>

namespace moeplan {

namespace {

uint64_t arenaBytesOf(const fb::Plan &plan, bool onCuda) {
  uint64_t bytes = 0;
  if (const auto *programs = programsOf(plan, onCuda))
    for (const fb::Program *program : *programs)
      bytes = std::max(bytes, program->arena_bytes());
  return bytes;
}

/// 0: the plan's programs for a device give the host nothing to do.
uint64_t pinnedArenaBytesOf(const fb::Plan &plan) {
  uint64_t bytes = 0;
  for (const fb::Program *program : *plan.device_programs())
    bytes = std::max(bytes, program->pinned_arena_bytes());
  return bytes;
}

} // namespace

uint64_t workingBytes(const Residency &residency, const fb::Plan &plan) {
  const bool onCuda = residency.device().cuda();
  const uint64_t arena = arenaBytesOf(plan, onCuda);
  if (!onCuda)
    return arena + slotLayoutOf(residency, plan).bytes();
  return arena + plan.experts()->size() * sizeof(moeplan_expert) +
         ExpertSlots::bytesOf(residency, plan);
}

Result<std::unique_ptr<LoadedPlan>> LoadedPlan::load(Backend &backend, const fb::Plan &plan,
                                                     const SessionMemory &memory, Sourcing sourcing,
                                                     const Staging &staging,
                                                     const std::set<uint32_t> &deferred) {
  if (memory.step && (!plan.device_programs() || plan.device_programs()->size() == 0))
    return unsupported("plan '" + plan.name()->str() +
                       "' has no programs for cuda devices; compile it with --target-cuda");
  if (!backend.device().cuda()) // which is given synthetic weights as they are generated
    MOEPLAN_TRY(backend.artifact().prepareWeights(memory.pool->threads(), &plan));
  std::unique_ptr<LoadedPlan> loaded(new LoadedPlan(backend, plan, memory, sourcing));
  MOEPLAN_TRY(loaded->bringIn(staging, deferred));
  if (sourcing == Sourcing::resident) {
    MOEPLAN_ASSIGN(loaded->deviceArena_,
                   backend.device().allocate(arenaBytesOf(plan, loaded->onCuda()), "arena"));
  } else {
    MOEPLAN_ASSIGN(loaded->hostArena_,
                   HostMemory::allocate(arenaBytesOf(plan, /*onCuda=*/false), "arena"));
  }
  MOEPLAN_TRY(loaded->fillTable());
  MOEPLAN_TRY(loaded->bind());
  MOEPLAN_TRY(backend.residency().finishCopies());
  return loaded;
}

Status LoadedPlan::acquireExpert(uint32_t expert, const Staging &staging) {
  for (const Held &held : weights_.experts[expert])
    if (!lease_.has(held))
      MOEPLAN_TRY(lease_.acquire(held, staging));
  return {};
}

Status LoadedPlan::bringIn(const Staging &staging, const std::set<uint32_t> &deferred) {
  if (sourcing_ == Sourcing::host)
    return {};
  if (sourcing_ == Sourcing::present) {
    for (const Held &held : weights_.all())
      lease_.adopt(held);
    return {};
  }
  for (const Held &held : weights_.dense)
    MOEPLAN_TRY(lease_.acquire(held, staging));
  for (uint32_t expert = 0; expert < weights_.experts.size(); ++expert) {
    if (expert + 1 < weights_.experts.size())
      for (const Held &next : weights_.experts[expert + 1])
        if (!backend_.residency().isHeld(next) &&
            (next.memory == fb::Residency::device || onCuda() || !staging.onDemand))
          backend_.artifact().readAhead(next.segment); // while this one is brought in
    if (deferred.contains(expert)) {
      if (onCuda())
        MOEPLAN_TRY(acquireOnHost(expert));
      away_.insert(expert);
    } else {
      MOEPLAN_TRY(acquireExpert(expert, staging));
    }
  }
  return {};
}

const std::byte *LoadedPlan::address(Held held) const {
  const bool onDevice =
      held.memory == fb::Residency::device && lease_.has(held) && !denseOnHost_.contains(held);
  if (onDevice)
    return backend_.residency().address(held);
  return onCuda() ? backend_.residency().address({held.segment, fb::Residency::host})
                  : backend_.artifact().weight(held.segment).data();
}

moeplan_expert LoadedPlan::rowOf(uint32_t expert, bool onHost) const {
  const auto &segments = *backend_.artifact().metadata().segments();
  auto format = [&](const Held &held) {
    return static_cast<uint16_t>(segments.Get(held.segment)->format());
  };
  auto [w1, w3, w2] = weights_.experts[expert];
  if (onHost)
    w1.memory = w3.memory = w2.memory = fb::Residency::host;
  return {address(w1),
          address(w3),
          address(w2),
          format(w1),
          format(w3),
          format(w2),
          usesDevice(plan_) && w1.memory == fb::Residency::host};
}

Status LoadedPlan::fillTable() {
  table_.reserve(weights_.experts.size());
  for (uint32_t expert = 0; expert < weights_.experts.size(); ++expert)
    table_.push_back(rowOf(expert, away_.contains(expert)));
  if (onCuda()) { // whose programs fetch experts themselves, or read them in place
    if (slotLayoutOf(backend_.residency(), plan_).count > 0) {
      MOEPLAN_ASSIGN(slots_, ExpertSlots::create(backend_.residency(), plan_));
      MOEPLAN_TRY(slots_->setHomes(0, table_));
    }
    const uint64_t bytes = table_.size() * sizeof(moeplan_expert);
    Device &device = backend_.device();
    MOEPLAN_ASSIGN(deviceTable_, device.allocate(bytes, "expert table"));
    MOEPLAN_ASSIGN(const Device::Transfer transfer,
                   device.beginCopy(deviceTable_.data(),
                                    reinterpret_cast<const std::byte *>(table_.data()), bytes));
    return device.finish(transfer);
  }
  if (sourcing_ != Sourcing::resident || !usesDevice(plan_))
    return {};
  MOEPLAN_ASSIGN(misses_, MissHandler::create(backend_.residency(), plan_, table_));
  for (uint32_t expert : away_)
    misses_->setOnDevice(expert, false);
  return {};
}

Status LoadedPlan::tellDevice(uint32_t expert, bool onHost) {
  const moeplan_expert row = rowOf(expert, onHost);
  Device &device = backend_.device();
  MOEPLAN_ASSIGN(const Device::Transfer transfer,
                 device.beginCopy(deviceTable_.data() + expert * sizeof(row),
                                  reinterpret_cast<const std::byte *>(&row), sizeof(row)));
  MOEPLAN_TRY(device.finish(transfer));
  if (slots_)
    MOEPLAN_TRY(slots_->setHomes(expert, std::span(&row, 1)));
  table_[expert] = row;
  tellHost(expert);
  return {};
}

void LoadedPlan::tellHost(uint32_t expert) {
  if (hostTable_.empty())
    return;
  moeplan_expert &row = hostTable_[expert] = table_[expert];
  const auto [w1, w3, w2] = weights_.experts[expert];
  const auto addressOf = [&](const Held &held) -> const std::byte * {
    return row.on_host ? backend_.residency().hostAddress({held.segment, fb::Residency::host})
                       : nullptr; // nothing that it is given to compute
  };
  row.w1 = addressOf(w1);
  row.w3 = addressOf(w3);
  row.w2 = addressOf(w2);
}

Status LoadedPlan::acquireOnHost(uint32_t expert) {
  for (const Held &held : weights_.experts[expert])
    if (const Held onHost{held.segment, fb::Residency::host}; !lease_.has(onHost))
      MOEPLAN_TRY(lease_.acquire(onHost, {}));
  return {};
}

Status LoadedPlan::bindDevicePrograms() {
  if (const uint64_t bytes = pinnedArenaBytesOf(plan_)) {
    MOEPLAN_ASSIGN(pinnedArena_, backend_.device().cuda()->allocatePinned(bytes));
    hostTable_.resize(table_.size());
    for (uint32_t expert = 0; expert < table_.size(); ++expert)
      tellHost(expert);
    hostMisses_ = std::make_unique<HostMisses>(backend_.residency());
  }
  const fb::Residency dense =
      weights_.dense.empty() ? fb::Residency::device : weights_.dense.front().memory;
  ProgramMemory memory{.arena = deviceArena_.data(),
                       .keys = memory_.keys,
                       .values = memory_.values,
                       .kvLayerBytes = memory_.kvLayerBytes,
                       .experts = reinterpret_cast<const moeplan_expert *>(deviceTable_.data()),
                       .expertSlots = slots_ ? slots_->onDevice() : nullptr,
                       .pinnedArena = pinnedArena_.onDevice()};
  memory.weight = [&](uint32_t segment) { return address({segment, dense}); };
  const HostSide host{&backend_.kernels(), memory_.pool, pinnedArena_.data(), hostTable_.data(),
                      hostMisses_.get()};
  std::vector<DeviceProgram> programs;
  for (const fb::Program *program : *plan_.device_programs()) {
    MOEPLAN_ASSIGN(DeviceProgram bound,
                   DeviceProgram::bind(backend_.artifact(), *program, *backend_.cudaKernels(),
                                       *memory_.step, memory, host));
    programs.push_back(std::move(bound));
  }
  devicePrograms_ = std::move(programs);
  return {};
}

Status LoadedPlan::bind() {
  if (onCuda())
    return bindDevicePrograms();
  ProgramMemory memory{deviceArena_.data() ? deviceArena_.data() : hostArena_.data(),
                       memory_.keys,
                       memory_.values,
                       memory_.kvLayerBytes,
                       table_.data(),
                       memory_.tokens};
  const fb::Residency dense =
      weights_.dense.empty() ? fb::Residency::host : weights_.dense.front().memory;
  memory.weight = [&](uint32_t segment) { return address({segment, dense}); };
  if (faultAt(FaultPoint::kernelLoad))
    return unsupported("cannot load kernels: injected");
  std::vector<BoundProgram> programs;
  for (const fb::Program *program : *plan_.programs()) {
    MOEPLAN_ASSIGN(BoundProgram bound,
                   BoundProgram::bind(backend_.artifact(), *program, backend_.kernels(), memory));
    programs.push_back(std::move(bound));
  }
  programs_ = std::move(programs);
  return {};
}

void LoadedPlan::evict(uint32_t expert, const std::set<Held> &kept) {
  if (onCuda() && !(acquireOnHost(expert).ok() && tellDevice(expert, /*onHost=*/true).ok()))
    return; // the device can read it nowhere else: it stays
  if (misses_)
    misses_->setOnDevice(expert, false);
  away_.insert(expert);
  std::vector<Held> given;
  for (const Held &held : weights_.experts[expert])
    if (!kept.contains(held))
      given.push_back(held);
  for (const Held &held : given)
    lease_.release(held);
}

Status LoadedPlan::bringBack(uint32_t expert, const Staging &staging) {
  Status status = acquireExpert(expert, staging);
  Status finished = backend_.residency().finishCopies();
  return status.ok() ? finished : status;
}

Status LoadedPlan::evictDense(const std::set<Held> &kept) {
  if (onCuda())
    return exhausted("what is not experts does not leave a cuda device");
  std::vector<Held> given;
  for (const Held &held : weights_.dense)
    if (!kept.contains(held) && denseOnHost_.insert(held).second)
      given.push_back(held);
  Status status = bind(); // nothing may point to them when they go
  for (const Held &held : given) {
    if (status.ok())
      lease_.release(held);
    else
      denseOnHost_.erase(held);
  }
  return status;
}

Status LoadedPlan::bringBackDense(const Staging &staging) {
  for (const Held &held : denseOnHost_)
    if (!lease_.has(held))
      MOEPLAN_TRY(lease_.acquire(held, staging));
  return backend_.residency().finishCopies();
}

Status LoadedPlan::putBackDense() {
  std::set<Held> onHost = std::exchange(denseOnHost_, {});
  Status status = bind();
  if (!status.ok())
    denseOnHost_ = std::move(onHost);
  return status;
}

void LoadedPlan::beginRun() {
  if (denseOnHost_.empty())
    return;
  uint64_t bytes = 0;
  for (const Held &held : denseOnHost_)
    bytes += backend_.residency().bytesOf(held.segment);
  backend_.residency().counters().missBytes += bytes;
  reading_ = bytes > 0 ? backend_.device().beginReading(bytes) : Device::Transfer();
}

void LoadedPlan::endRun() {
  if (slots_)
    slots_->count();
  if (!denseOnHost_.empty())
    (void)backend_.device().finish(reading_); // reads of kernels, which do not fail
}

void LoadedPlan::putBack(uint32_t expert) {
  if (onCuda() && !tellDevice(expert, /*onHost=*/false).ok())
    return; // it is read in the host's memory for longer
  away_.erase(expert);
  if (misses_)
    misses_->setOnDevice(expert, true);
  if (onCuda())
    for (const Held &held : weights_.experts[expert])
      lease_.release({held.segment, fb::Residency::host});
}

} // namespace moeplan
