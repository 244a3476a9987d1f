#include "runtime/support/part_reader.h"

#include <algorithm>
#include <system_error>
#include <utility>

namespace moeplan {

PartReader::PartReader(uint64_t parts, uint64_t ahead, unsigned threads, Read read)
    : parts_(parts), ahead_(std::min(ahead, parts)), read_(std::move(read)), outcomes_(ahead_) {
  try {
    while (threads_.size() < threads && threads_.size() + 1 < parts)
      threads_.emplace_back([this] { work(); });
  } catch (const std::system_error &) { // no more threads: those there are do it
  }
}

PartReader::~PartReader() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  for (std::thread &thread : threads_)
    thread.join();
}

void PartReader::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopped_ || next_ == parts_ || next_ < released_ + ahead_; });
    if (stopped_ || next_ == parts_)
      return;
    const uint64_t part = next_++;
    lock.unlock();
    Status status = read_(part);
    lock.lock();
    outcomes_[part % ahead_] = {true, std::move(status)};
    changed_.notify_all();
  }
}

Status PartReader::take(uint64_t part) {
  std::unique_lock lock(mutex_);
  if (next_ == part) {
    ++next_;
    lock.unlock();
    return read_(part);
  }
  Outcome &outcome = outcomes_[part % ahead_];
  changed_.wait(lock, [&] { return outcome.isThere; });
  outcome.isThere = false;
  return std::move(outcome.status);
}

void PartReader::release(uint64_t part) {
  {
    const std::lock_guard lock(mutex_);
    released_ = part + 1;
  }
  changed_.notify_all();
}

} // namespace moeplan
