#include "runtime/session/boundary.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace moeplan {

void Boundary::runWaiting() {
  if (waiting_.empty())
    return;
  for (Waiting *waiting : waiting_) {
    (*waiting->action)();
    waiting->done.store(true, std::memory_order_release);
  }
  waiting_.clear();
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
  Waiting waiting{&action};
  {
    const std::lock_guard lock(mutex_);
    if (!stepping_) {
      action();
      return;
    }
    waiting_.push_back(&waiting);
  }
  // To be woken would cost the session a system call, between two tokens of all places.
  constexpr std::chrono::microseconds kFirst(20), kLongest(1000);
  for (auto pause = kFirst; !waiting.done.load(std::memory_order_acquire);
       pause = std::min(2 * pause, kLongest))
    std::this_thread::sleep_for(pause);
}

} // namespace moeplan
