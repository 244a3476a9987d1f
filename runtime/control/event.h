// What happens to plans while sessions run, as it is told to whoever listens.
#pragma once

#include "moeplan/moeplan.h"
#include "moeplan_generated.h"
#include "runtime/session/session.h"

#include <functional>
#include <string>

namespace moeplan {

/// See moeplan_event, whose fields these are.
struct Event {
  moeplan_event_kind kind;
  const Session *session = nullptr; ///< null: none in particular
  const void *owner = nullptr;      ///< what createSession() was given for it
  const fb::Plan *from = nullptr;
  const fb::Plan *plan = nullptr;
  uint64_t bytes = 0;
  double seconds = 0;
  uint32_t position = 0;
  double perplexityIncrease = 0;
  double divergence = 0;
  std::string reason = {};
};

/// Called by any thread, by one at a time; must not come back to the runtime.
using EventListener = std::function<void(const Event &)>;

} // namespace moeplan
