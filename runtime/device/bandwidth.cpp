#include "runtime/device/bandwidth.h"

#include "runtime/device/memory.h"
#include "runtime/device/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

namespace moeplan {

namespace {

/// Sums words so that every byte must arrive; four sums, so that adding never limits.
/// (Sanitizers are not there yet when the dynamic linker chooses one.)
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t
sumWords(const uint64_t *words, uint64_t count) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  for (uint64_t i = 0; i + 32 <= count; i += 32)
    for (uint64_t j = 0; j < 8; ++j) {
      a += words[i + j];
      b += words[i + 8 + j];
      c += words[i + 16 + j];
      d += words[i + 24 + j];
    }
  return a + b + c + d;
}

/// One pass over the words, a part for each thread.
class Pass : public Phases {
public:
  Pass(const uint64_t *words, uint64_t count, uint32_t parts)
      : words_(words), wordsPerPart_(count / parts), sums_(size_t(parts) * kSumsApart) {}

  uint32_t count() const override { return 1; }
  uint32_t tiles(uint32_t) const override {
    return static_cast<uint32_t>(sums_.size() / kSumsApart);
  }
  void run(uint32_t, TileRange range) override {
    for (uint32_t part = range.begin; part < range.end; ++part)
      sums_[part * kSumsApart] = sumWords(words_ + part * wordsPerPart_, wordsPerPart_);
  }

private:
  static constexpr size_t kSumsApart = 8; // a cache line each

  const uint64_t *words_;
  uint64_t wordsPerPart_;
  std::vector<uint64_t> sums_;
};

} // namespace

Result<double> measureReadBandwidth(unsigned threads, uint64_t bytes, unsigned repetitions) {
  constexpr uint64_t kSmallest = 1 << 20;
  if (threads == 0 || repetitions == 0 || bytes < kSmallest)
    return invalidArgument("bandwidth needs a thread, a repetition and at least 1 MiB");
  MOEPLAN_ASSIGN(HostMemory memory, HostMemory::allocate(bytes, "bandwidth measurement"));
  memory.useHugePages(); // the machine's best, not that of its page tables
  std::memset(memory.data(), 1, bytes);
  ThreadPool pool(threads);
  Pass pass(reinterpret_cast<const uint64_t *>(memory.data()), bytes / 8, pool.threads());
  double best = 0;
  for (unsigned i = 0; i < repetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run(pass);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(bytes) / seconds.count());
  }
  return best;
}

} // namespace moeplan
