// From one thread to another.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace moeplan::compiler {

/// A queue of up to `capacity` values. Who gives waits while it is full, who takes while it is
/// empty; once it is closed nobody waits, and what is in it can still be taken.
template <typename T> class Handover {
public:
  explicit Handover(size_t capacity) : capacity_(capacity) {}

  /// False where it is closed: the value is dropped.
  bool give(T value) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || values_.size() < capacity_; });
    if (closed_)
      return false;
    values_.push_back(std::move(value));
    changed_.notify_all();
    return true;
  }
  /// Nothing where it is closed and empty.
  std::optional<T> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || !values_.empty(); });
    if (values_.empty())
      return std::nullopt;
    std::optional<T> value(std::move(values_.front()));
    values_.pop_front();
    changed_.notify_all();
    return value;
  }
  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

private:
  const size_t capacity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> values_;
  bool closed_ = false;
};

} // namespace moeplan::compiler
