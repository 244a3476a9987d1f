// Programs written by hand, with kernels that record how they are called.
#include "runtime/executor/executor.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <thread>

namespace moeplan::testing {
namespace {

using fb::Access;
using fb::BindingKind;

constexpr uint32_t kMaxTokens = 4;
constexpr uint64_t kArenaBytes = 4096, kKvLayerBytes = 256;

/// bindings[0]: uint32 per tile.
void countTiles(void *const *bindings, const moeplan_step *, uint64_t begin, uint64_t end) {
  auto *counts = static_cast<uint32_t *>(bindings[0]);
  for (uint64_t tile = begin; tile < end; ++tile)
    ++counts[tile];
}

/// bindings[0]: uint32 per tile, gets the sum of the 64 numbers at bindings[1].
void sumBehind(void *const *bindings, const moeplan_step *, uint64_t begin, uint64_t end) {
  auto *sums = static_cast<uint32_t *>(bindings[0]);
  const auto *counts = static_cast<const uint32_t *>(bindings[1]);
  for (uint64_t tile = begin; tile < end; ++tile)
    sums[tile] = std::accumulate(counts, counts + 64, 0u);
}

/// bindings[0]: gets the addresses of all seven operands.
void recordOperands(void *const *bindings, const moeplan_step *, uint64_t, uint64_t) {
  std::memcpy(bindings[0], bindings, 7 * sizeof(void *));
}

/// bindings[0]: logits of 8 numbers a row; each requested row gets its number.
void writeLogits(void *const *bindings, const moeplan_step *step, uint64_t, uint64_t) {
  // The base may lie before the buffer, so that it is a number until a row is added.
  const auto logits = reinterpret_cast<uintptr_t>(bindings[0]);
  for (uint64_t row = step->logits_begin; row < step->token_count; ++row)
    for (uint64_t i = 0; i < 8; ++i)
      *reinterpret_cast<float *>(logits + (row * 8 + i) * sizeof(float)) = float(row);
}

/// bindings[0]: for each of the two experts the slots that it is told of, and behind them how often
/// it ran; bindings[2]: where the slots of each begin.
void countSlots(void *const *bindings, const moeplan_step *, uint64_t begin, uint64_t end) {
  auto *counts = static_cast<uint32_t *>(bindings[0]);
  const auto *slots = static_cast<const uint32_t *>(bindings[2]);
  for (uint64_t tile = begin; tile < end; ++tile) {
    for (int expert = 0; expert < 2; ++expert)
      counts[expert] += slots[expert + 1] - slots[expert];
    ++counts[2];
  }
}

enum Kernel : uint32_t {
  kCountTiles,
  kSumBehind,
  kRecordOperands,
  kWriteLogits,
  kCountSlots,
  kCountSlotsOnce
};
const std::vector<moeplan_kernel_fn> kKernels = {countTiles,  sumBehind,  recordOperands,
                                                 writeLogits, countSlots, countSlots};

/// Prepares one expert after the other.
class OneByOne : public ExpertSource {
public:
  bool hasMisses(uint32_t layer) const override { return layer == missing; }
  uint32_t prepare(uint32_t layer, std::span<const uint32_t> begin, uint32_t first,
                   bool undivided) override {
    calls.push_back({layer, begin[2], first, undivided});
    return undivided ? 2 : first + 1;
  }
  void finish() override { ++finished; }

  struct Call {
    uint32_t layer, slots, first;
    bool undivided;
    bool operator==(const Call &) const = default;
  };
  uint32_t missing = 1;
  std::vector<Call> calls;
  int finished = 0;
};

class ExecutorTest : public ::testing::Test {
protected:
  ExecutorTest() {
    draft.kernels = {
        {"count_tiles", 1},
        {"sum_behind", 2},
        {"record_operands",
         7,
         "experts_gate_up",
         {{"formats", 1 << MOEPLAN_FORMAT_F32}, {"weight_format", MOEPLAN_FORMAT_BF16}}},
        {"write_logits", 1},
        {"count_slots", 3, "experts_gate_up", {{"formats", 1 << MOEPLAN_FORMAT_F32}}},
        {"count_slots_once",
         3,
         "experts_gate_up",
         {{"formats", 1 << MOEPLAN_FORMAT_F32}, {"accumulate", 0}}}};
    draft.program().arenaBytes = kArenaBytes;
    // The second program, since the first is for one token.
    draft.plans[0].programs.push_back({"prefill", kMaxTokens, kArenaBytes, {}});
  }

  /// Binds the program of these commands.
  BoundProgram bind(std::vector<CommandDraft> commands) {
    auto bound = tryBind(std::move(commands));
    EXPECT_TRUE(bound.ok());
    return std::move(bound).value();
  }
  Result<BoundProgram> tryBind(std::vector<CommandDraft> commands) {
    draft.plans[0].programs[1].commands = std::move(commands);
    const std::string path = directory.path() / "a.moeplan";
    draft.write(path);
    auto opened = Artifact::open(path);
    if (!opened.ok())
      throw std::runtime_error(opened.failure().message());
    artifact = std::move(opened).value();
    const fb::Program &program = *artifact->metadata().plans()->Get(0)->programs()->Get(1);
    return BoundProgram::bind(*artifact, program, kKernels, memory);
  }

  template <typename T> T *inArena(uint64_t offset) {
    return reinterpret_cast<T *>(arenaMemory + offset);
  }

  TemporaryDirectory directory;
  ArtifactDraft draft;
  std::unique_ptr<Artifact> artifact;
  alignas(64) std::byte arenaMemory[kArenaBytes] = {};
  std::byte keys[2 * kKvLayerBytes] = {}, values[2 * kKvLayerBytes] = {};
  moeplan_expert experts[4] = {};
  int32_t tokens[kMaxTokens] = {};
  ProgramMemory memory{arenaMemory, keys, values, kKvLayerBytes, experts, tokens};
  ThreadPool pool{1};
  moeplan_step step{kMaxTokens, 0, 0, 0};
};

TEST_F(ExecutorTest, AProgramWithoutCommandsDoesNothing) {
  BoundProgram program = bind({});
  EXPECT_EQ(program.maxTokens(), kMaxTokens);
  program.run(pool, step, nullptr);
  program = bind({barrier(), barrier()});
  program.run(pool, step, nullptr);
}

TEST_F(ExecutorTest, ACopyMovesBytes) {
  std::iota(inArena<uint8_t>(0), inArena<uint8_t>(64), uint8_t(1));
  BoundProgram program =
      bind({copy(arena(0, 50), arena(128, 50)), barrier(),
            copy(operand(BindingKind::segment, ArtifactDraft::kUp, 4, 20), arena(256, 20))});
  program.run(pool, step, nullptr);
  EXPECT_EQ(std::memcmp(inArena<char>(128), inArena<char>(0), 50), 0);
  EXPECT_EQ(*inArena<char>(128 + 50), 0);
  EXPECT_EQ(std::string(inArena<char>(256), 21), std::string(20, 'u') + '\0');
}

TEST_F(ExecutorTest, EveryTileRunsOnceOnAnyNumberOfThreads) {
  for (unsigned threads = 1; threads <= 5; ++threads) {
    ThreadPool threaded(threads);
    for (uint32_t tiles : {1u, 2u, 3u, 7u, 64u, 1000u}) {
      BoundProgram program = bind({dispatch(kCountTiles, tiles, {arena(0, 4096)})});
      std::memset(arenaMemory, 0, sizeof(arenaMemory));
      program.run(threaded, step, nullptr);
      for (uint32_t tile = 0; tile < 1024; ++tile)
        ASSERT_EQ(inArena<uint32_t>(0)[tile], tile < tiles ? 1u : 0u)
            << threads << " threads, " << tiles << " tiles, tile " << tile;
    }
  }
}

/// A dispatch of `kernel` on the experts of `layer`; slots begin at byte 0, counts are at `counts`.
CommandDraft onExperts(uint32_t kernel, uint32_t layer, uint64_t counts) {
  return dispatch(kernel, 1,
                  {arena(counts, 12), operand(BindingKind::experts, layer, 0, 0), arena(0, 12)});
}

TEST_F(ExecutorTest, ExpertsThatAreNotThereAreBroughtOneAfterTheOther) {
  BoundProgram program =
      bind({onExperts(kCountSlots, 0, 64), barrier(), onExperts(kCountSlots, 1, 128), barrier(),
            onExperts(kCountSlots, 1, 192), barrier(), dispatch(kCountTiles, 1, {arena(256, 64)})});
  const uint32_t slots[] = {0, 3, 5};
  std::memcpy(arenaMemory, slots, sizeof slots);
  OneByOne source;
  program.run(pool, step, nullptr, nullptr, &source);
  auto counts = [&](uint64_t offset) {
    return std::vector<uint32_t>(inArena<uint32_t>(offset), inArena<uint32_t>(offset) + 3);
  };
  // All slots once, in one run where nothing is missing, in one per expert where it is.
  EXPECT_EQ(counts(64), (std::vector<uint32_t>{3, 2, 1}));
  EXPECT_EQ(counts(128), (std::vector<uint32_t>{3, 2, 2}));
  EXPECT_EQ(counts(192), (std::vector<uint32_t>{3, 2, 2}));
  EXPECT_EQ(*inArena<uint32_t>(256), 1u);
  EXPECT_EQ(source.calls, (std::vector<OneByOne::Call>{{1, 5, 0, false}, {1, 5, 1, false}}));
  EXPECT_EQ(source.finished, 2);
  // The next run is told of all slots again.
  program.run(pool, step, nullptr);
  EXPECT_EQ(counts(128), (std::vector<uint32_t>{6, 4, 3}));
}

TEST_F(ExecutorTest, WhatDoesNotAddToWhatIsThereRunsOnce) {
  BoundProgram program =
      bind({onExperts(kCountSlots, 1, 64), barrier(), onExperts(kCountSlotsOnce, 1, 128)});
  OneByOne source;
  program.run(pool, step, nullptr, nullptr, &source);
  EXPECT_EQ(source.calls, (std::vector<OneByOne::Call>{{1, 0, 0, true}}));
}

TEST_F(ExecutorTest, AGridPerTokenGrowsWithTheTokensOfTheStep) {
  BoundProgram program = bind({dispatch(kCountTiles, 3, {arena(0, 4096)}, /*perToken=*/true)});
  for (uint32_t count = 1; count <= kMaxTokens; ++count) {
    std::memset(arenaMemory, 0, sizeof(arenaMemory));
    step.token_count = count;
    program.run(pool, step, nullptr);
    EXPECT_EQ(std::accumulate(inArena<uint32_t>(0), inArena<uint32_t>(4096), 0u), 3 * count);
    EXPECT_EQ(inArena<uint32_t>(0)[3 * count - 1], 1u);
  }
}

TEST_F(ExecutorTest, ABarrierLetsNothingPassUntilAllBeforeItIsDone) {
  ThreadPool threaded(4);
  BoundProgram program =
      bind({dispatch(kCountTiles, 64, {arena(0, 256)}), barrier(),
            dispatch(kSumBehind, 8, {arena(512, 32), arena(0, 256, Access::read)}), barrier(),
            copy(arena(512, 32), arena(1024, 32))});
  for (uint32_t round = 1; round <= 3000; ++round) {
    program.run(threaded, step, nullptr);
    for (uint32_t tile = 0; tile < 8; ++tile)
      ASSERT_EQ(inArena<uint32_t>(1024)[tile], 64 * round) << "round " << round;
  }
}

TEST_F(ExecutorTest, CommandsOfOnePhaseAllRun) {
  ThreadPool threaded(3);
  BoundProgram program =
      bind({barrier(), dispatch(kCountTiles, 5, {arena(0, 64)}),
            dispatch(kCountTiles, 40, {arena(256, 256)}),
            copy(operand(BindingKind::segment, ArtifactDraft::kNorm, 0, 16), arena(1024, 16)),
            barrier()});
  program.run(threaded, step, nullptr);
  EXPECT_EQ(std::accumulate(inArena<uint32_t>(0), inArena<uint32_t>(64), 0u), 5u);
  EXPECT_EQ(std::accumulate(inArena<uint32_t>(256), inArena<uint32_t>(512), 0u), 40u);
  EXPECT_EQ(std::string(inArena<char>(1024), 16), std::string(16, 'n'));
}

TEST_F(ExecutorTest, TilesOfSideBySideCommandsAreSharedOutWhereverTheirBordersLie) {
  for (unsigned threads : {1u, 2u, 3u, 8u}) {
    ThreadPool threaded(threads);
    for (uint32_t tiles = 1; tiles <= 20; ++tiles) {
      BoundProgram program = bind({dispatch(kCountTiles, 1, {arena(0, 4)}),
                                   dispatch(kCountTiles, tiles, {arena(256, 256)}),
                                   dispatch(kCountTiles, 3, {arena(512, 256)}, /*perToken=*/true),
                                   dispatch(kCountTiles, 2, {arena(768, 8)})});
      std::memset(arenaMemory, 0, sizeof(arenaMemory));
      program.run(threaded, step, nullptr);
      const std::pair<uint64_t, uint32_t> expected[] = {
          {0, 1}, {256, tiles}, {512, 3 * kMaxTokens}, {768, 2}};
      for (const auto &[offset, count] : expected)
        for (uint32_t tile = 0; tile < 64; ++tile)
          ASSERT_EQ(inArena<uint32_t>(offset)[tile], tile < count ? 1u : 0u)
              << threads << " threads, " << tiles << " tiles, tile " << tile << " at " << offset;
    }
  }
}

/// Notes, for each dispatch, its number of tiles and how many tiles had run by then.
class RecordingObserver : public DispatchObserver {
public:
  explicit RecordingObserver(std::span<const uint32_t> counts) : counts_(counts) {}
  void afterDispatch(const fb::Dispatch &dispatch, std::span<void *const> operands,
                     const moeplan_step &) override {
    EXPECT_EQ(std::this_thread::get_id(), caller_);
    EXPECT_EQ(operands.size(), dispatch.bindings()->size());
    seen.emplace_back(dispatch.tiles(), std::accumulate(counts_.begin(), counts_.end(), 0u));
  }
  std::vector<std::pair<uint32_t, uint32_t>> seen;

private:
  std::span<const uint32_t> counts_;
  std::thread::id caller_ = std::this_thread::get_id();
};

TEST_F(ExecutorTest, AnObserverSeesEachDispatchInOrderBetweenItsPhaseAndTheNext) {
  for (unsigned threads : {1u, 2u, 4u}) {
    ThreadPool threaded(threads);
    BoundProgram program =
        bind({dispatch(kCountTiles, 64, {arena(0, 256)}), dispatch(kCountTiles, 1, {arena(256, 4)}),
              barrier(), dispatch(kCountTiles, 1, {arena(512, 4)}), barrier(),
              dispatch(kCountTiles, 7, {arena(768, 28)})});
    for (int run = 0; run < 200; ++run) {
      std::memset(arenaMemory, 0, sizeof(arenaMemory));
      RecordingObserver observer({inArena<uint32_t>(0), 256});
      program.run(threaded, step, nullptr, &observer);
      const std::vector<std::pair<uint32_t, uint32_t>> expected = {
          {64, 65}, {1, 65}, {1, 66}, {7, 73}};
      ASSERT_EQ(observer.seen, expected) << threads << " threads";
    }
  }
}

/// Notes, for each command that was timed, its number of tiles; 0 for a copy.
class RecordingTimer : public DispatchTimer {
public:
  void took(const fb::Dispatch *dispatch, double seconds) override {
    EXPECT_GE(seconds, 0);
    timed.push_back(dispatch ? dispatch->tiles() : 0);
  }
  void afterDispatch(const fb::Dispatch &dispatch, std::span<void *const>,
                     const moeplan_step &) override {
    EXPECT_EQ(timed.back(), dispatch.tiles());
    ++dispatches;
  }
  std::vector<uint32_t> timed;
  uint32_t dispatches = 0;
};

TEST_F(ExecutorTest, CommandsRunOneByOneDoTheSameAndAreEachTimed) {
  ThreadPool threaded(2);
  BoundProgram program =
      bind({dispatch(kCountTiles, 64, {arena(0, 256)}),
            dispatch(kCountTiles, 3, {arena(256, 256)}, /*perToken=*/true), barrier(),
            dispatch(kSumBehind, 8, {arena(512, 32), arena(0, 256, Access::read)}),
            copy(arena(256, 48), arena(1024, 48))});
  RecordingTimer timer;
  program.runOneByOne(threaded, step, nullptr, timer);
  EXPECT_EQ(timer.timed, (std::vector<uint32_t>{64, 3, 8, 0}));
  EXPECT_EQ(timer.dispatches, 3u);
  EXPECT_EQ(std::accumulate(inArena<uint32_t>(1024), inArena<uint32_t>(1072), 0u), 3 * kMaxTokens);
  EXPECT_EQ(inArena<uint32_t>(512)[7], 64u);
}

TEST_F(ExecutorTest, APhaseWithMoreTilesThanCanBeCountedIsRefused) {
  constexpr uint32_t kMost = 1 << 24; // that an artifact may have in one command
  std::vector<CommandDraft> commands(
      (uint64_t(1) << 32) / kMost / kMaxTokens,
      dispatch(kCountTiles, kMost, {arena(0, 64)}, /*perToken=*/true));
  const auto bound = tryBind(commands);
  ASSERT_FALSE(bound.ok());
  EXPECT_EQ(bound.failure().code(), MOEPLAN_UNSUPPORTED);
  EXPECT_EQ(bound.failure().message(),
            "a phase of a program for 4 tokens has more than 4294967295 tiles");
  --commands.back().tiles;
  EXPECT_TRUE(tryBind(commands).ok());
}

TEST_F(ExecutorTest, OperandsAreTheMemoryTheyName) {
  BoundProgram program = bind(
      {dispatch(kRecordOperands, 1,
                {arena(64, 64), operand(BindingKind::segment, ArtifactDraft::kDown, 8, 40),
                 operand(BindingKind::keys, 1, 0, 0, Access::read_write),
                 operand(BindingKind::values, 1, 0, 0, Access::read_write),
                 operand(BindingKind::experts, 1, 0, 0), operand(BindingKind::tokens, 0, 4, 12),
                 operand(BindingKind::logits, 0, 0, 32, Access::write)})});
  float logits[kMaxTokens * 8] = {};
  program.run(pool, step, logits);
  const auto *operands = inArena<const void *>(64);
  EXPECT_EQ(operands[0], inArena<void>(64));
  EXPECT_EQ(operands[1], artifact->weight(ArtifactDraft::kDown).data() + 8);
  EXPECT_EQ(operands[2], keys + kKvLayerBytes);
  EXPECT_EQ(operands[3], values + kKvLayerBytes);
  EXPECT_EQ(operands[4], experts + 2);
  EXPECT_EQ(operands[5], tokens + 1);
  EXPECT_EQ(operands[6], logits);
}

TEST_F(ExecutorTest, OnlyRequestedRowsOfLogitsAreWritten) {
  BoundProgram program = bind({dispatch(
      kWriteLogits, 1, {operand(BindingKind::logits, 0, 0, kMaxTokens * 32, Access::write)})});
  for (uint32_t begin = 0; begin <= kMaxTokens; ++begin) {
    // Exactly as much memory as there are rows: the sanitizers see a write beyond it.
    std::vector<float> logits((kMaxTokens - begin) * 8, -1);
    step.logits_begin = begin;
    program.run(pool, step, logits.data());
    for (size_t i = 0; i < logits.size(); ++i)
      ASSERT_EQ(logits[i], float(begin + i / 8)) << "from row " << begin;
  }
}

} // namespace
} // namespace moeplan::testing
