#include "runtime/session/loaded_plan.h"

#include "runtime/support/fault.h"

#include <algorithm>
#include <utility>

namespace moeplan {

uint64_t arenaBytesOf(const fb::Plan &plan) {
  uint64_t bytes = 0;
  for (const fb::Program *program : *plan.programs())
    bytes = std::max(bytes, program->arena_bytes());
  return bytes;
}

Result<std::unique_ptr<LoadedPlan>> LoadedPlan::load(Backend &backend, const fb::Plan &plan,
                                                     const SessionMemory &memory, Sourcing sourcing,
                                                     const Staging &staging,
                                                     const std::set<uint32_t> &deferred) {
  std::unique_ptr<LoadedPlan> loaded(new LoadedPlan(backend, plan, memory, sourcing));
  MOEPLAN_TRY(loaded->bringIn(staging, deferred));
  if (sourcing == Sourcing::resident) {
    MOEPLAN_ASSIGN(loaded->deviceArena_, backend.device().allocate(arenaBytesOf(plan), "arena"));
  } else {
    MOEPLAN_ASSIGN(loaded->hostArena_, HostMemory::allocate(arenaBytesOf(plan), "arena"));
  }
  MOEPLAN_TRY(loaded->fillTable());
  MOEPLAN_TRY(loaded->bind());
  backend.residency().finishCopies();
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
    if (deferred.contains(expert))
      away_.insert(expert);
    else
      MOEPLAN_TRY(acquireExpert(expert, staging));
  }
  return {};
}

const std::byte *LoadedPlan::address(Held held) const {
  const bool onDevice =
      held.memory == fb::Residency::device && lease_.has(held) && !denseOnHost_.contains(held);
  return onDevice ? backend_.residency().address(held)
                  : backend_.artifact().weight(held.segment).data();
}

Status LoadedPlan::fillTable() {
  const auto &segments = *backend_.artifact().metadata().segments();
  auto format = [&](const Held &held) {
    return static_cast<uint16_t>(segments.Get(held.segment)->format());
  };
  table_.reserve(weights_.experts.size());
  for (const auto &[w1, w3, w2] : weights_.experts)
    table_.push_back(
        {address(w1), address(w3), address(w2), format(w1), format(w3), format(w2), 0});
  if (sourcing_ != Sourcing::resident || !usesDevice(plan_))
    return {};
  MOEPLAN_ASSIGN(misses_, MissHandler::create(backend_.residency(), plan_, table_));
  for (uint32_t expert : away_)
    misses_->setOnDevice(expert, false);
  return {};
}

Status LoadedPlan::bind() {
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
  if (misses_)
    misses_->setOnDevice(expert, false);
  away_.insert(expert);
  for (const Held &held : weights_.experts[expert])
    if (!kept.contains(held))
      lease_.release(held);
}

Status LoadedPlan::bringBack(uint32_t expert, const Staging &staging) {
  Status status = acquireExpert(expert, staging);
  backend_.residency().finishCopies();
  return status;
}

Status LoadedPlan::evictDense(const std::set<Held> &kept) {
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
  backend_.residency().finishCopies();
  return {};
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
  if (!denseOnHost_.empty())
    backend_.device().finish(reading_);
}

void LoadedPlan::putBack(uint32_t expert) {
  away_.erase(expert);
  if (misses_)
    misses_->setOnDevice(expert, true);
}

} // namespace moeplan
