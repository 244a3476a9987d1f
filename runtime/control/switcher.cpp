#include "runtime/control/switcher.h"

#include <algorithm>

namespace moeplan {

uint64_t countedWeightBytes(const Residency &residency, const fb::Plan &plan) {
  uint64_t bytes = 0;
  for (const Held &held : residency.weightsOf(plan).all())
    if (residency.counts(held.memory))
      bytes += residency.bytesOf(held.segment);
  return bytes;
}

Switcher::Switcher(Backend &backend, Session &session, const fb::Plan &target, Staging staging,
                   WithSessions withSessions, EventListener tell)
    : backend_(backend), residency_(backend.residency()), session_(session), target_(target),
      from_(&session.plan()), staging_(std::move(staging)), withSessions_(std::move(withSessions)),
      tell_(std::move(tell)), weights_(backend.residency().weightsOf(target)),
      start_(Clock::now()) {
  const std::vector<Held> all = weights_.all();
  needed_.insert(all.begin(), all.end());
}

void Switcher::tell(moeplan_event_kind kind, uint64_t bytes, std::string reason) const {
  if (tell_)
    tell_({.kind = kind,
           .session = &session_,
           .from = from_,
           .plan = &target_,
           .bytes = bytes,
           .seconds = std::chrono::duration<double>(Clock::now() - start_).count(),
           .position = position_,
           .reason = std::move(reason)});
}

Status Switcher::run() {
  Status status;
  if (&target_ == from_) {
    status = bringBack();
    if (status.ok())
      tell(MOEPLAN_EVENT_COMPLETED, 0);
  } else {
    status = stageAndFlip();
  }
  if (status.ok())
    return status;
  if (status.code() == MOEPLAN_CANCELLED) {
    tell(MOEPLAN_EVENT_SUPERSEDED, 0, status.message());
    return status;
  }
  std::string reason = status.message();
  if (Status back = bringBack(); !back.ok())
    reason += "; experts stay in host memory: " + back.message();
  tell(MOEPLAN_EVENT_FAILED, 0, std::move(reason));
  return status;
}

uint64_t Switcher::bytesToAllocate() const {
  uint64_t bytes = workingBytes(residency_, target_);
  std::set<Held> counted;
  auto add = [&](const Held &held) {
    if (isCounted(held) && !residency_.isHeld(held) && counted.insert(held).second)
      bytes += residency_.bytesOf(held.segment);
  };
  for (const Held &held : weights_.dense)
    add(held);
  for (uint32_t expert = 0; expert < weights_.experts.size(); ++expert)
    if (!deferred_.contains(expert))
      for (const Held &held : weights_.experts[expert])
        add(held);
  return bytes;
}

uint64_t Switcher::shortage() const {
  const uint64_t wanted = bytesToAllocate() + backend_.device().used();
  const uint64_t budget = backend_.device().budget();
  return wanted > budget ? wanted - budget : 0;
}

Status Switcher::stageAndFlip() {
  uint64_t toMove = 0;
  for (const Held &held : needed_)
    if (!residency_.isHeld(held))
      toMove += residency_.bytesOf(held.segment);
  tell(MOEPLAN_EVENT_STAGING, toMove);
  stagedBefore_ = residency_.counters().stagedBytes;
  if (shortage() > 0)
    MOEPLAN_TRY(makeRoom());
  MOEPLAN_TRY(checkDeferred());
  MOEPLAN_ASSIGN(std::unique_ptr<LoadedPlan> next, session_.load(target_, staging_, deferred_));
  flip(std::move(next));
  Status rest = deferred_.empty() ? Status() : bringBack();
  if (rest.code() == MOEPLAN_CANCELLED)
    return rest;
  if (rest.ok())
    tell(MOEPLAN_EVENT_COMPLETED, stagedBytes());
  else // the session runs the target, with the same results
    tell(MOEPLAN_EVENT_FAILED, 0, "experts stay in host memory: " + rest.message());
  return {};
}

/// They are read from the host's memory at first: what is damaged there must not be run.
Status Switcher::checkDeferred() const {
  for (uint32_t expert : deferred_)
    for (const Held &held : weights_.experts[expert])
      if (!residency_.isIntact({held.segment, fb::Residency::host}))
        return corrupt("segment '" + residency_.nameOf(held.segment) +
                       "': checksum does not match");
  return {};
}

/// Evicts experts that the target does not need; what is then still too much is deferred.
Status Switcher::makeRoom() {
  const uint64_t wanted = shortage();
  std::vector<uint64_t> freed(weights_.experts.size()); // by expert
  std::set<Held> seen;
  forEachSession([&](Session &session) {
    session.atBoundary([&] {
      const LoadedPlan &active = session.active();
      for (uint32_t expert = 0; expert < freed.size(); ++expert)
        if (!active.away().contains(expert))
          for (const Held &held : active.weights().experts[expert])
            if (isCounted(held) && !needed_.contains(held) && seen.insert(held).second)
              freed[expert] += residency_.bytesOf(held.segment);
    });
  });
  std::set<uint32_t> victims;
  uint64_t sum = 0;
  for (uint32_t expert = 0; expert < freed.size() && sum < wanted; ++expert)
    if (freed[expert] > 0) {
      victims.insert(expert);
      sum += freed[expert];
    }
  evict(victims);
  for (uint32_t expert = 0; expert < weights_.experts.size() && shortage() > 0; ++expert)
    if (std::any_of(weights_.experts[expert].begin(), weights_.experts[expert].end(),
                    [&](const Held &held) { return isCounted(held) && !residency_.isHeld(held); }))
      deferred_.insert(expert);
  if (shortage() > 0)
    MOEPLAN_TRY(evictDense());
  if (const uint64_t missing = shortage(); missing > 0)
    return exhausted("plan '" + target_.name()->str() + "' lacks " + std::to_string(missing) +
                     " bytes of device memory");
  return {};
}

void Switcher::evict(const std::set<uint32_t> &experts) {
  if (experts.empty())
    return;
  evicted_ = true;
  const uint64_t before = backend_.device().used();
  forEachSession([&](Session &session) {
    session.atBoundary([&] {
      LoadedPlan &active = session.active();
      for (uint32_t expert : experts) {
        const auto &linears = active.weights().experts[expert];
        if (!active.away().contains(expert) &&
            std::any_of(linears.begin(), linears.end(), [&](const Held &held) {
              return isCounted(held) && !needed_.contains(held);
            }))
          active.evict(expert, needed_);
      }
    });
  });
  const uint64_t after = backend_.device().used();
  const uint64_t bytes = before > after ? before - after : 0;
  residency_.counters().evictedBytes += bytes;
  tell(MOEPLAN_EVENT_EVICTED, bytes);
}

/// The last resort: not even what is not experts fits twice.
Status Switcher::evictDense() {
  evicted_ = true;
  const uint64_t before = backend_.device().used();
  Status status;
  forEachSession([&](Session &session) {
    session.atBoundary([&] {
      if (status.ok())
        status = session.active().evictDense(needed_);
    });
  });
  const uint64_t after = backend_.device().used();
  residency_.counters().evictedBytes += before > after ? before - after : 0;
  tell(MOEPLAN_EVENT_EVICTED, before > after ? before - after : 0);
  return status;
}

void Switcher::flip(std::unique_ptr<LoadedPlan> next) {
  const uint64_t released = residency_.counters().releasedBytes;
  std::unique_ptr<LoadedPlan> previous;
  session_.atBoundary([&] {
    previous = session_.flip(std::move(next));
    position_ = session_.position();
  });
  tell(MOEPLAN_EVENT_FLIPPED, stagedBytes());
  if (deferred_.empty())
    previous->giveUpGently();
  previous.reset();
  tell(MOEPLAN_EVENT_RELEASED, residency_.counters().releasedBytes - released);
}

void Switcher::forEachSession(const std::function<void(Session &)> &action) {
  withSessions_([&](const std::vector<Session *> &sessions) {
    for (Session *session : sessions)
      action(*session);
  });
}

Status Switcher::bringBack() {
  LoadedPlan *active = nullptr;
  session_.atBoundary([&] { active = &session_.active(); }); // no other thread exchanges it
  Status status;
  if (active->isDenseAway()) {
    MOEPLAN_TRY(active->bringBackDense(staging_));
    session_.atBoundary([&] { status = active->putBackDense(); });
    MOEPLAN_TRY(std::move(status));
  }
  std::vector<uint32_t> back;
  for (uint32_t expert : active->away()) {
    status = active->bringBack(expert, staging_);
    if (!status.ok())
      break;
    back.push_back(expert);
  }
  session_.atBoundary([&] {
    for (uint32_t expert : back)
      active->putBack(expert);
  });
  return status;
}

} // namespace moeplan
