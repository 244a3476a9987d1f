// Many switches and budgets at random, while several sessions generate. For the sanitizers above
// all.
#include "tests/unit/switching/served_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <thread>

namespace moeplan::testing {
namespace {

constexpr int kChanges = 1000;
constexpr int kSessions = 3;

/// Generates until it is told to stop, from the start again whenever the KV cache is full.
class Generator {
public:
  Generator(Runtime &runtime, const char *plan) : runtime_(runtime) {
    auto session = runtime.createSession({.plan = plan, .contextLength = 128, .threads = 1});
    if (!session.ok())
      throw std::runtime_error(session.failure().message());
    session_ = session.value();
    thread_ = std::thread([this] { generate(); });
  }
  ~Generator() {
    stop();
    runtime_.closeSession(session_);
  }

  Session &session() { return *session_; }
  void stop() {
    stop_ = true;
    if (thread_.joinable())
      thread_.join();
  }
  uint64_t tokens() const { return tokens_; }
  bool finite() const { return finite_; }

private:
  void generate() {
    std::mt19937 random(7);
    while (!stop_) {
      if (session_->position() == session_->contextLength())
        session_->reset();
      const auto token = static_cast<int32_t>(random() % session_->vocabSize());
      if (!session_->append({&token, 1}, 1).ok())
        finite_ = false;
      for (uint32_t i = 0; i < session_->vocabSize(); ++i)
        if (!std::isfinite(session_->logits(0)[i]))
          finite_ = false;
      ++tokens_;
    }
  }

  Runtime &runtime_;
  Session *session_ = nullptr;
  std::atomic<bool> stop_ = false, finite_ = true;
  std::atomic<uint64_t> tokens_ = 0;
  std::thread thread_;
};

void stress(const std::filesystem::path &path, const char *device,
            const std::vector<const char *> &plans) {
  const auto artifact = open(path);
  Served served(*artifact, plans[0], device);
  std::vector<std::unique_ptr<Generator>> generators;
  for (int i = 0; i < kSessions; ++i)
    generators.push_back(std::make_unique<Generator>(*served.runtime, plans[0]));
  const uint64_t all = served.device().used();

  std::mt19937 random(1);
  uint64_t accepted = 0;
  for (int i = 0; i < kChanges; ++i) {
    Status status;
    if (random() % 4 == 0) {
      // From what hardly any plan fits to what all do.
      status = served.runtime->setDeviceBudget(all / 2 + random() % (2 * all));
    } else {
      Session &session = generators[random() % kSessions]->session();
      const bool wait = random() % 8 == 0;
      status = served.runtime->switchPlan(session, plans[random() % plans.size()], wait);
    }
    accepted += status.ok();
    EXPECT_TRUE(status.ok() || status.code() == MOEPLAN_RESOURCE_EXHAUSTED ||
                status.code() == MOEPLAN_CANCELLED)
        << status.message();
    if (random() % 50 == 0) { // sessions come and go
      const size_t one = random() % kSessions;
      generators[one].reset();
      ASSERT_TRUE(served.runtime->setDeviceBudget(4 * all).ok());
      generators[one] = std::make_unique<Generator>(*served.runtime, plans[0]);
    }
  }
  EXPECT_GT(accepted, kChanges / 4u);
  ASSERT_TRUE(served.runtime->setDeviceBudget(4 * all).ok());
  // What is left runs as if nothing had been.
  for (auto &generator : generators) {
    EXPECT_TRUE(generator->finite());
    EXPECT_GT(generator->tokens(), 0u);
    generator->stop();
  }
  for (const char *plan : plans) {
    // The budget may ask for another plan in between; the last request wins.
    while (!served.switchTo(plan).ok()) {
    }
    served.session->reset();
    const std::vector<int32_t> tokens = served.generate(10);
    EXPECT_EQ(tokens, tokensOf(*artifact, served.session->planName(), device, 10)) << plan;
  }
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_QUARANTINED), 0u);
  generators.clear();
}

TEST(StressTest, OnTheHost) { stress(Artifacts::host(), "cpu", {"full", "int8", "int4"}); }

TEST(StressTest, OnADevice) {
  stress(Artifacts::device(), "emu:latency=1us", {"int8", "int4", "twin", "half"});
}

TEST(StressTest, ManyChecksAmongSwitches) {
  const auto artifact = open(Artifacts::host());
  Served served(*artifact, "full");
  for (int i = 0; i < 50; ++i) {
    served.session->reset();
    ASSERT_TRUE(served.switchTo(i % 2 ? "full" : "int4").ok());
    served.generate(40);
  }
  ASSERT_TRUE(served.log.waitFor(MOEPLAN_EVENT_CANARY));
  EXPECT_EQ(served.log.count(MOEPLAN_EVENT_QUARANTINED), 0u);
}

} // namespace
} // namespace moeplan::testing
