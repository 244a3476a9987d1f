#include "runtime/control/plan_repair.h"

#include "runtime/residency/plan_weights.h"

#include <vector>

namespace moeplan {

namespace {

/// Runs `action` while none of the sessions from `next` on makes a step.
void whileAllRest(const std::vector<Session *> &sessions, size_t next,
                  const std::function<void()> &action) {
  if (next == sessions.size())
    return action();
  sessions[next]->atBoundary([&] { whileAllRest(sessions, next + 1, action); });
}

} // namespace

Status verifyAndRepair(Residency &residency, const fb::Plan &plan,
                       const WithSessions &withSessions) {
  std::vector<Held> damaged;
  Lease lease(residency); // so that nothing goes away meanwhile
  for (const Held &held : residency.weightsOf(plan).all()) {
    if (!residency.isIntact({held.segment, fb::Residency::host}))
      return corrupt("segment '" + residency.nameOf(held.segment) + "': checksum does not match");
    if (held.memory == fb::Residency::device && lease.adopt(held) && !residency.isIntact(held))
      damaged.push_back(held);
  }
  if (damaged.empty())
    return {};
  Status status;
  withSessions([&](const std::vector<Session *> &sessions) {
    whileAllRest(sessions, 0, [&] {
      for (const Held &held : damaged)
        if (status.ok())
          status = residency.repair(held);
    });
  });
  return status;
}

} // namespace moeplan
