#include "runtime/session/loaded_plan.h"

#include "runtime/support/fault.h"

#include <algorithm>

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
  std::unique_ptr<LoadedPlan> loaded(new LoadedPlan(backend, plan, sourcing));
  MOEPLAN_TRY(loaded->bringIn(staging, deferred));
  if (sourcing == Sourcing::resident) {
    MOEPLAN_ASSIGN(loaded->deviceArena_, backend.device().allocate(arenaBytesOf(plan), "arena"));
  } else {
    MOEPLAN_ASSIGN(loaded->hostArena_, HostMemory::allocate(arenaBytesOf(plan), "arena"));
  }
  MOEPLAN_TRY(loaded->fillTable());
  MOEPLAN_TRY(loaded->bind(memory));
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
  const bool onDevice = held.memory == fb::Residency::device && lease_.has(held);
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

Status LoadedPlan::bind(const SessionMemory &memory) {
  ProgramMemory bound{deviceArena_.data() ? deviceArena_.data() : hostArena_.data(),
                      memory.keys,
                      memory.values,
                      memory.kvLayerBytes,
                      table_.data(),
                      memory.tokens,
                      {}};
  const fb::Residency dense =
      weights_.dense.empty() ? fb::Residency::host : weights_.dense.front().memory;
  bound.weight = [&](uint32_t segment) { return address({segment, dense}); };
  if (faultAt(FaultPoint::kernelLoad))
    return unsupported("cannot load kernels: injected");
  for (const fb::Program *program : *plan_.programs()) {
    MOEPLAN_ASSIGN(BoundProgram program_,
                   BoundProgram::bind(backend_.artifact(), *program, backend_.kernels(), bound));
    programs_.push_back(std::move(program_));
  }
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
  return acquireExpert(expert, staging);
}

void LoadedPlan::putBack(uint32_t expert) {
  away_.erase(expert);
  if (misses_)
    misses_->setOnDevice(expert, true);
}

} // namespace moeplan
