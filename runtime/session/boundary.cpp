#include "runtime/session/boundary.h"

namespace moeplan {

void Boundary::runWaiting() {
  if (waiting_.empty())
    return;
  for (Waiting *waiting : waiting_) {
    (*waiting->action)();
    waiting->done = true;
  }
  waiting_.clear();
  ran_.notify_all();
}

void Boundary::enter() {
  const std::lock_guard lock(mutex_);
  runWaiting();
  stepping_ = true;
}

void Boundary::leave() {
  const std::lock_guard lock(mutex_);
  stepping_ = false;
  runWaiting();
}

void Boundary::run(const std::function<void()> &action) {
  std::unique_lock lock(mutex_);
  if (!stepping_) {
    action();
    return;
  }
  Waiting waiting{&action};
  waiting_.push_back(&waiting);
  ran_.wait(lock, [&] { return waiting.done; });
}

} // namespace moeplan
