#include "executor.h"
#include "simt.h"

#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace moeplan::simt {

Index threadIndex, blockIndex, blockSize, gridSize;

namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kLanes = 32;

/// Stacks that are used again by the next block.
class StackPool {
public:
  ~StackPool() {
    for (context::stack_context &stack : free_)
      context::fixedsize_stack(kStackBytes).deallocate(stack);
  }
  context::stack_context allocate() {
    if (free_.empty())
      return context::fixedsize_stack(kStackBytes).allocate();
    const context::stack_context stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void deallocate(context::stack_context &stack) { free_.push_back(stack); }

private:
  std::vector<context::stack_context> free_;
};
StackPool stackPool;
struct PooledStack {
  context::stack_context allocate() { return stackPool.allocate(); }
  void deallocate(context::stack_context &stack) { stackPool.deallocate(stack); }
};

struct Copy {
  void *target;
  const void *source; ///< null: zeros

  void make() const {
    if (source)
      std::memcpy(target, source, 16);
    else
      std::memset(target, 0, 16);
  }
};
bool copiesAtOnce = false;
struct Thread {
  context::fiber fiber; ///< where it goes on; empty once it has ended
  bool waitsForBlock = false, waitsForWarp = false, ended = false;
  std::vector<Copy> begun;              ///< of no group yet
  std::deque<std::vector<Copy>> copies; ///< groups under way
};

struct Warp {
  /// Deposits of two meetings: lanes read one while others are at the next.
  uint32_t deposits[2][kLanes][kMostWords];
  Meeting kind[kLanes];
  uint32_t meetings = 0;
  unsigned arrived = 0;
};

/// Threads are stopped by this when a launch has failed.
struct Abandoned {};

class Block {
public:
  Block(unsigned threads, const std::vector<unsigned> &order, const std::function<void()> &kernel)
      : threads_(threads), warps_(threads / kLanes), order_(order), kernel_(kernel) {}

  std::string run();
  const uint32_t (*meet(Meeting meeting, const uint32_t *values, int words))[kMostWords];
  void meetBlock();
  Thread &thread() { return threads_[current_]; }

private:
  void start(unsigned index);
  /// Lets the 32 threads from order_[first] on run until each waits or has ended; whether any
  /// could.
  bool advanceLanes(size_t first);
  /// Back to run(), which lets other threads on.
  void pause();
  bool blocked(const Thread &thread) const { return thread.waitsForBlock || thread.waitsForWarp; }
  void fail(std::string why) {
    if (error_.empty())
      error_ = std::move(why);
  }
  std::string stuck() const;

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  const std::vector<unsigned> &order_;
  const std::function<void()> &kernel_;
  context::fiber scheduler_;
  unsigned current_ = 0, atBarrier_ = 0;
  std::string error_;
};
Block *running = nullptr;

void Block::start(unsigned index) {
  threads_[index].fiber =
      context::fiber(std::allocator_arg, PooledStack(), [this, index](context::fiber &&back) {
        scheduler_ = std::move(back);
        try {
          kernel_();
        } catch (const Abandoned &) {
        }
        threads_[index].ended = true;
        return std::move(scheduler_);
      });
}

void Block::pause() {
  const unsigned index = current_;
  scheduler_ = std::move(scheduler_).resume_with([this, index](context::fiber &&thread) {
    threads_[index].fiber = std::move(thread);
    return context::fiber();
  });
  if (!error_.empty())
    throw Abandoned();
}

const uint32_t (*Block::meet(Meeting meeting, const uint32_t *values, int words))[kMostWords] {
  const unsigned lane = current_ % kLanes;
  Warp &warp = warps_[current_ / kLanes];
  auto &deposits = warp.deposits[warp.meetings % 2];
  std::copy(values, values + words, deposits[lane]);
  warp.kind[lane] = meeting;
  if (++warp.arrived < kLanes) {
    threads_[current_].waitsForWarp = true;
    pause();
  } else {
    warp.arrived = 0;
    ++warp.meetings;
    for (unsigned l = 0; l < kLanes; ++l) {
      threads_[current_ / kLanes * kLanes + l].waitsForWarp = false;
      if (warp.kind[l] != meeting)
        fail("the lanes of warp " + std::to_string(current_ / kLanes) +
             " meet in different operations");
    }
  }
  return deposits;
}

void Block::meetBlock() {
  if (++atBarrier_ < threads_.size()) {
    threads_[current_].waitsForBlock = true;
    pause();
    return;
  }
  atBarrier_ = 0;
  for (Thread &thread : threads_)
    thread.waitsForBlock = false;
}

std::string Block::stuck() const {
  const auto count = [&](auto &&of) {
    return std::to_string(std::count_if(threads_.begin(), threads_.end(), of));
  };
  return "block (" + std::to_string(blockIndex.x) + ", " + std::to_string(blockIndex.y) +
         "): " + count([](const Thread &t) { return t.ended; }) + " threads have ended, " +
         count([](const Thread &t) { return t.waitsForBlock; }) + " wait for the block, " +
         count([](const Thread &t) { return t.waitsForWarp; }) + " for their warp";
}

bool Block::advanceLanes(size_t first) {
  bool moved = false;
  for (size_t i = first; i < first + kLanes; ++i) {
    Thread &thread = threads_[order_[i]];
    if (thread.ended || (error_.empty() && blocked(thread)))
      continue;
    moved = true;
    current_ = order_[i];
    threadIndex = {current_, 0, 0};
    // A thread that pauses has put itself back by now; one that has ended leaves nothing.
    context::fiber rest = std::move(thread.fiber).resume();
    if (rest)
      thread.fiber = std::move(rest);
  }
  return moved;
}

std::string Block::run() {
  running = this;
  for (unsigned index : order_)
    start(index);
  for (bool moved = true; moved;) {
    moved = false;
    // A warp goes as far as it can before the next one starts: what it writes too early is seen.
    for (size_t first = 0; first < order_.size(); first += kLanes)
      while (advanceLanes(first))
        moved = true;
    if (!moved && !std::all_of(threads_.begin(), threads_.end(),
                               [](const Thread &thread) { return thread.ended; })) {
      fail(stuck());
      moved = true; // once more, to let them go
    }
  }
  running = nullptr;
  return error_;
}

/// The threads, warp by warp.
std::vector<unsigned> threadOrder(const Launch &launch) {
  std::mt19937 random(launch.threads);
  const auto inOrder = [&](unsigned count) {
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0u);
    if (launch.order == Order::Backward)
      std::reverse(order.begin(), order.end());
    if (launch.order == Order::Shuffled)
      std::shuffle(order.begin(), order.end(), random);
    return order;
  };
  std::vector<unsigned> threads;
  for (const unsigned warp : inOrder(launch.threads / kLanes))
    for (const unsigned lane : inOrder(kLanes))
      threads.push_back(warp * kLanes + lane);
  return threads;
}

} // namespace

const uint32_t (*meet(Meeting meeting, const uint32_t *values, int words))[kMostWords] {
  return running->meet(meeting, values, words);
}
void meetBlock() { running->meetBlock(); }

void beginCopy(void *target, const void *source) {
  const Copy copy{target, source};
  if (copiesAtOnce)
    copy.make();
  else
    running->thread().begun.push_back(copy);
}
void commitCopies() {
  Thread &thread = running->thread();
  thread.copies.push_back(std::exchange(thread.begun, {}));
}
void waitForCopies(unsigned groups) {
  auto &copies = running->thread().copies;
  for (; copies.size() > groups; copies.pop_front())
    for (const Copy &copy : copies.front())
      copy.make();
}

std::string run(const Launch &launch, const std::function<void()> &kernel) {
  static std::mutex one;
  const std::lock_guard lock(one);
  if (launch.threads == 0 || launch.threads % kLanes)
    return "a block of " + std::to_string(launch.threads) + " threads is no number of whole warps";
  const std::vector<unsigned> order = threadOrder(launch);
  copiesAtOnce = launch.order == Order::Backward;
  blockSize = {launch.threads, 1, 1};
  gridSize = {launch.grid[0], launch.grid[1], launch.grid[2]};
  for (unsigned z = 0; z < launch.grid[2]; ++z)
    for (unsigned y = 0; y < launch.grid[1]; ++y)
      for (unsigned x = 0; x < launch.grid[0]; ++x) {
        blockIndex = {x, y, z};
        if (std::string error = Block(launch.threads, order, kernel).run(); !error.empty())
          return error;
      }
  return "";
}

} // namespace moeplan::simt
