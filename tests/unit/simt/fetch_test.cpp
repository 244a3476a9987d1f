#include "tests/unit/simt/simt_test.h"

#include <cstring>

namespace moeplan::testing {
namespace {

constexpr int kExperts = 6, kFeatures = 50, kIntermediate = 40;
struct Constants {
  static constexpr long long features = kFeatures, intermediate = kIntermediate,
                             num_experts = kExperts, threads = 64;
};

/// A layer whose experts 1 .. 5 are on the host, in different formats.
class FetchTest : public ::testing::Test {
protected:
  static constexpr int kFormats[kExperts] = {MOEPLAN_FORMAT_BF16,    MOEPLAN_FORMAT_INT8G32,
                                             MOEPLAN_FORMAT_INT4G64, MOEPLAN_FORMAT_INT3G128,
                                             MOEPLAN_FORMAT_INT2G32, MOEPLAN_FORMAT_BF16};

  FetchTest() {
    RandomNumbers random(1);
    for (int e = 0; e < kExperts; ++e) {
      const auto format = moeplan_format(kFormats[e]);
      weights_.push_back({Weights(random, kIntermediate, kFeatures, format),
                          Weights(random, kIntermediate, kFeatures, format),
                          Weights(random, kFeatures, kIntermediate, format)});
      const auto &w = weights_.back();
      const auto id = uint16_t(format);
      homes_.push_back({w[0].data(), w[1].data(), w[2].data(), id, id, id, uint16_t(e > 0)});
    }
    live_.resize(kExperts);
  }

  void makeSlots(uint32_t count, bool keeps, uint64_t bytes = 1 << 14) {
    memory_.assign(count * bytes, char(0xee));
    states_.assign(count, {MOEPLAN_NO_EXPERT, 0});
    slots_ = {
        homes_.data(), memory_.data(), states_.data(), totals_, bytes, count, keeps, 0, 0, 0, 0, 0};
  }

  /// A step that is routed to `experts`.
  void step(std::vector<int> experts) {
    uint32_t begin[kExperts + 1] = {};
    for (int e : experts)
      ++begin[e + 1];
    for (int e = 0; e < kExperts; ++e)
      begin[e + 1] += begin[e];
    // What is in the slots before matters: the same state for each order of threads.
    auto bytes = memory_;
    auto states = states_;
    std::vector<moeplan_expert_slots> slots{slots_};
    const moeplan_step ignored{};
    for (const simt::Order order : {simt::Order::Shuffled, simt::Order::Backward}) {
      memory_ = bytes; // in place: the table points to it
      states_ = states;
      slots_ = slots[0];
      ASSERT_EQ(
          simt::run({{3, 1, 1}, Constants::threads, order},
                    [&] { fetch_experts<Constants>(&ignored, live_.data(), begin, &slots_); }),
          "");
    }
  }

  int64_t slotOf(int expert) const {
    const auto *at = static_cast<const char *>(live_[expert].w1);
    return at >= memory_.data() && at < memory_.data() + memory_.size()
               ? (at - memory_.data()) / int64_t(slots_.slot_bytes)
               : -1;
  }
  void expectInSlot(int expert, int64_t slot) const {
    EXPECT_EQ(slotOf(expert), slot) << expert;
    const void *linears[] = {live_[expert].w1, live_[expert].w3, live_[expert].w2};
    for (int i = 0; i < 3; ++i) {
      const Weights &w = weights_[expert][i];
      EXPECT_EQ(std::memcmp(linears[i], w.data(),
                            *formatBytes(*findFormat(uint32_t(w.format)), w.rows, w.columns)),
                0)
          << "linear " << i << " of expert " << expert;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(linears[i]) % 16, 0u);
    }
  }
  void expectAtHome(int expert) const {
    EXPECT_EQ(std::memcmp(&live_[expert], &homes_[expert], sizeof(moeplan_expert)), 0) << expert;
  }
  void expectTotals(uint64_t hits, uint64_t misses) const {
    EXPECT_EQ(totals_[0], hits);
    EXPECT_EQ(totals_[1], misses);
    EXPECT_EQ(slots_.blocks_done, 0u);
  }

  std::vector<std::array<Weights, 3>> weights_;
  std::vector<moeplan_expert> homes_, live_;
  std::vector<char> memory_;
  std::vector<moeplan_expert_slot> states_;
  uint64_t totals_[3] = {};
  moeplan_expert_slots slots_{};
};

TEST_F(FetchTest, ExpertsOnTheHostAreFetched) {
  makeSlots(2, false);
  step({0, 1, 4});
  expectAtHome(0);
  expectInSlot(1, 0);
  expectInSlot(4, 1);
  expectAtHome(2); // not routed to
  expectTotals(0, 2);
  uint64_t bytes = 0;
  for (int e : {1, 4})
    for (const Weights &w : weights_[e])
      bytes += (*formatBytes(*findFormat(uint32_t(w.format)), w.rows, w.columns) + 63) / 64 * 64;
  EXPECT_EQ(totals_[2], bytes);
}

TEST_F(FetchTest, WhatFindsNoSlotIsReadInPlace) {
  makeSlots(2, false);
  step({1, 2, 3, 4, 5});
  expectInSlot(1, 0);
  expectInSlot(2, 1);
  for (int e : {3, 4, 5})
    expectAtHome(e);
  expectTotals(0, 5);
  step({5});
  expectInSlot(5, 0);
  expectAtHome(1);
}

TEST_F(FetchTest, NothingIsKeptInSwapBuffers) {
  makeSlots(2, false);
  step({1});
  states_[0].expert = 2; // another layer's
  memory_.assign(memory_.size(), 0);
  step({2, 1});
  expectInSlot(1, 1);
  expectInSlot(2, 0);
  expectTotals(0, 3);
}

TEST_F(FetchTest, ACacheKeepsWhatWasUsedLast) {
  makeSlots(3, true);
  step({1, 2, 3});
  expectTotals(0, 3);
  step({1});
  step({3});
  expectTotals(2, 3);
  step({4}); // in place of 2, which was used longest ago
  expectInSlot(4, 1);
  expectTotals(2, 4);
  // A hit keeps its slot although a miss comes before it.
  step({2, 3});
  expectInSlot(3, 2);
  expectInSlot(2, 0);
  expectTotals(3, 5);
  step({4, 2, 3});
  expectTotals(6, 5);
  for (int e : {2, 3, 4})
    expectInSlot(e, slotOf(e));
}

TEST_F(FetchTest, WhatIsTooLargeForASlotIsReadInPlace) {
  makeSlots(2, true, 8192); // bf16 takes more
  step({5, 2});
  expectAtHome(5);
  expectInSlot(2, 0);
  step({2, 5});
  expectTotals(1, 3);
}

} // namespace
} // namespace moeplan::testing
