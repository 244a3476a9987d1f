// What running a program costs beside its kernels: the phases, and waking threads that sleep.
#include "runtime/executor/executor.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace moeplan::testing {
namespace {

constexpr uint64_t kArenaBytes = 64;

void doNothing(void *const *, const moeplan_step *, uint64_t, uint64_t) {}

/// Tiles come in pairs that wait for each other, so that two threads are needed.
/// bindings[0]: uint32, the tiles that have begun so far.
void meet(void *const *bindings, const moeplan_step *, uint64_t begin, uint64_t end) {
  std::atomic_ref<uint32_t> begun(*static_cast<uint32_t *>(bindings[0]));
  const uint32_t before = begun.fetch_add(static_cast<uint32_t>(end - begin));
  // The other thread may have to be scheduled first, and on this CPU.
  for (int looks = 0; begun.load() / 2 == before / 2; ++looks)
    if (looks > 1000)
      std::this_thread::yield();
}

enum Kernel : uint32_t { kDoNothing, kMeet };

/// `phases` phases, each of one dispatch.
class Program {
public:
  Program(uint32_t phases, Kernel kernel, uint32_t tiles) {
    ArtifactDraft draft;
    draft.kernels = {{"do_nothing", 1}, {"meet", 1}};
    draft.program().arenaBytes = kArenaBytes;
    for (uint32_t phase = 0; phase < phases; ++phase) {
      draft.program().commands.push_back(dispatch(kernel, tiles, {arena(0, kArenaBytes)}));
      draft.program().commands.push_back(barrier());
    }
    const std::string path = directory_.path() / "phases.moeplan";
    draft.write(path);
    artifact_ = take(Artifact::open(path));
    const fb::Program &program = *artifact_->metadata().plans()->Get(0)->programs()->Get(0);
    ProgramMemory memory;
    memory.arena = arena_;
    program_ = take(BoundProgram::bind(*artifact_, program, {doNothing, meet}, memory));
  }

  void run(ThreadPool &pool) { program_.run(pool, {1, 1, 0, 1}, nullptr); }

private:
  template <typename T> static T take(Result<T> result) {
    if (!result.ok())
      throw std::runtime_error(result.failure().message());
    return std::move(result).value();
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Artifact> artifact_;
  alignas(64) std::byte arena_[kArenaBytes] = {};
  BoundProgram program_;
};

void measurePhases(benchmark::State &state, Kernel kernel, uint32_t tiles, unsigned threads) {
  constexpr uint32_t kPhases = 100;
  Program program(kPhases, kernel, tiles);
  ThreadPool pool(threads);
  if (pool.threads() != threads)
    return state.SkipWithError("the system refuses threads");
  for ([[maybe_unused]] auto _ : state)
    program.run(pool);
  using benchmark::Counter;
  state.counters["s_per_phase"] =
      Counter(kPhases, Counter::kIsIterationInvariantRate | Counter::kInvert);
}

/// Empty tiles: often one thread has run them all before another comes.
void emptyPhase(benchmark::State &state) {
  measurePhases(state, kDoNothing, static_cast<uint32_t>(state.range(1)),
                static_cast<unsigned>(state.range(0)));
}
BENCHMARK(emptyPhase)
    ->ArgNames({"threads", "tiles"})
    ->ArgsProduct({{1, 2}, {1, 64, 1024}})
    ->UseRealTime();

/// What a phase costs in which two threads took part.
void sharedPhase(benchmark::State &state) { measurePhases(state, kMeet, 2, 2); }
BENCHMARK(sharedPhase)->UseRealTime();

/// A phase in which two threads took part, of which one slept before.
void wakeUp(benchmark::State &state) {
  Program program(1, kMeet, 2);
  ThreadPool pool(2);
  if (pool.threads() != 2)
    return state.SkipWithError("the system refuses threads");
  for ([[maybe_unused]] auto _ : state) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2)); // ten times what the pool spins for
    const auto begin = std::chrono::steady_clock::now();
    program.run(pool);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    state.SetIterationTime(seconds.count());
  }
}
BENCHMARK(wakeUp)->UseManualTime()->Iterations(300)->Unit(benchmark::kMicrosecond);

} // namespace
} // namespace moeplan::testing

BENCHMARK_MAIN();
