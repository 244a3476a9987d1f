// Runs a grid of the kernels of kernels/cuda on the CPU.
#pragma once

#include <functional>
#include <string>

namespace moeplan::simt {

/// In which order the threads of a block are let on, and when asynchronous copies are made: as soon
/// as they are begun where it is Backward, else not before they are waited for. What a kernel
/// computes must not depend on it.
enum class Order { Forward, Backward, Shuffled };

struct Launch {
  unsigned grid[3] = {1, 1, 1};
  unsigned threads = 32; ///< a multiple of 32
  Order order = Order::Forward;
};

/// Calls `kernel` once for each thread. Empty, or why the launch failed: lanes of a warp that do
/// not meet, a barrier that some threads do not come to. One launch at a time in a process; a
/// second waits.
std::string run(const Launch &launch, const std::function<void()> &kernel);

} // namespace moeplan::simt
