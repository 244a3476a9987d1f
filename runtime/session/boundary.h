// The pause between two steps of a session, for others to act in.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <vector>

namespace moeplan {

/// One thread makes steps; any other may let something run while no step is under way.
class Boundary {
public:
  /// Marks a step of the session's thread: actions that wait run before it and behind it.
  class Step {
  public:
    explicit Step(Boundary &boundary) : boundary_(boundary) { boundary_.enter(); }
    ~Step() { boundary_.leave(); }
    Step(const Step &) = delete;
    Step &operator=(const Step &) = delete;

  private:
    Boundary &boundary_;
  };

  /// Runs `action`, on this thread or on that of the session, between two steps; returns when it
  /// has run. It must not throw, nor come back to this boundary.
  void run(const std::function<void()> &action);

private:
  struct Waiting {
    const std::function<void()> *action;
    std::atomic<bool> done{false};
  };

  void enter();
  void leave();
  void runWaiting();

  std::mutex mutex_;
  bool stepping_ = false;
  std::vector<Waiting *> waiting_;
};

} // namespace moeplan
