// Experts that plans for the cuda device keep on the host: read in place, fetched, computed there.
#include "tests/unit/cuda/cuda_test.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace moeplan::testing {
namespace {

using CudaMissTest = CudaTest;

TEST_F(CudaMissTest, ExpertsOnTheHostAreReadThere) {
  const auto artifact = open(Artifacts::cuda());
  const std::vector<int32_t> expected = tokensOf(*artifact, "int4", "cuda", 12);
  const uint64_t whole = [&] {
    Served served(*artifact, "int4", "cuda");
    return served.device().used();
  }();
  Served served(*artifact, "split", "cuda");
  EXPECT_EQ(served.generate(12), expected);
  EXPECT_LT(served.device().used(), whole);
  // Half of the experts are there.
  const auto work = served.session->appendCounted(promptTokens(), 1);
  ASSERT_TRUE(work.ok());
  EXPECT_GT(work.value().host_bytes, 0u);
  EXPECT_LT(work.value().host_bytes, work.value().weight_bytes);
}

TEST_F(CudaMissTest, ExpertsOnTheHostAreFetched) {
  const auto artifact = open(Artifacts::cuda());
  const std::vector<int32_t> expected = tokensOf(*artifact, "int4", "cuda", 12);
  const auto counted = [&](const char *plan) {
    Served served(*artifact, plan, "cuda");
    served.prompt();
    fake_cuda_reset();
    EXPECT_EQ(served.generate(12), expected) << plan;
    EXPECT_EQ(fake_cuda_calls("cuGraphLaunch"), 12) << "the host has no part in it";
    const ResidencyCounters &counters = served.residency().counters();
    return std::array<uint64_t, 3>{counters.hits, counters.misses, counters.missBytes};
  };
  const auto stream = counted("stream"), cached = counted("cached");
  EXPECT_EQ(stream[0], 0u) << "swap buffers keep nothing";
  EXPECT_GT(stream[1], 0u);
  EXPECT_GT(cached[0], 0u);
  EXPECT_EQ(cached[0] + cached[1], stream[1]) << "the routing is the same";
  EXPECT_LT(cached[2], stream[2]);
}

TEST_F(CudaMissTest, FetchingGoesOnWhenExpertsLeaveAndComeBack) {
  const auto artifact = open(Artifacts::cuda());
  const std::vector<int32_t> expected = tokensOf(*artifact, "int4", "cuda", 12);
  for (const char *plan : {"stream", "cached"}) {
    Served served(*artifact, plan, "cuda");
    std::vector<int32_t> tokens = served.generate(4);
    LoadedPlan &active = served.session->active();
    const auto atHome = [&](uint32_t expert) {
      return served.residency().isHeld(active.weights().experts[expert][0]);
    };
    // Experts 1 and 2 of the first layer are on the device.
    for (uint32_t expert : {1u, 2u})
      served.session->atBoundary([&] { active.evict(expert, {}); });
    EXPECT_FALSE(atHome(1));
    std::vector<int32_t> more = served.generate(4);
    tokens.insert(tokens.end(), more.begin(), more.end());
    for (uint32_t expert : {1u, 2u}) {
      ASSERT_TRUE(active.bringBack(expert, {}).ok());
      served.session->atBoundary([&] { active.putBack(expert); });
    }
    EXPECT_TRUE(atHome(1));
    more = served.generate(4);
    tokens.insert(tokens.end(), more.begin(), more.end());
    EXPECT_EQ(tokens, expected) << plan;
  }
}

/// More than a program for the next token of several sequences takes.
std::vector<int32_t> twelveTokens() {
  std::vector<int32_t> tokens(promptTokens());
  while (tokens.size() < 12)
    tokens.push_back(tokens[tokens.size() - promptTokens().size()] + 1);
  return tokens;
}

/// Logits of tokens that are appended one by one, behind each other.
std::vector<float> logitsOneByOne(Session &session, std::span<const int32_t> tokens) {
  std::vector<float> all;
  for (const int32_t token : tokens) {
    const Status status = session.append({&token, 1}, 1);
    EXPECT_TRUE(status.ok()) << status.message();
    all.insert(all.end(), session.logits(0), session.logits(0) + session.vocabSize());
  }
  return all;
}

double farthest(const std::vector<float> &a, const std::vector<float> &b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, double(std::abs(a[i] - b[i])));
  return worst;
}

// The CPU multiplies codes with activations of 8 bits, the device with bf16.
constexpr double kHostDifference = 0.25;

TEST_F(CudaMissTest, ExpertsOnTheHostAreComputedThere) {
  const auto artifact = open(Artifacts::cuda());
  const std::vector<int32_t> text = twelveTokens();
  const std::span<const int32_t> tokens(text);
  Served expected(*artifact, "int4", "cuda"), served(*artifact, "host_compute", "cuda");
  const std::vector<float> logits = logitsOneByOne(*expected.session, tokens);
  fake_cuda_reset();
  const std::vector<float> got = logitsOneByOne(*served.session, tokens);
  EXPECT_EQ(fake_cuda_calls("cuGraphLaunch"), 12) << "a step is one launch";
  EXPECT_EQ(fake_cuda_calls("cuLaunchHostFunc"), 0) << "the host's part is a node of it";
  EXPECT_LE(farthest(got, logits), kHostDifference);
  EXPECT_GT(farthest(got, logits), 0) << "other kernels computed half of the experts";
  const ResidencyCounters &counters = served.residency().counters();
  const fb::Model &model = artifact->model();
  EXPECT_GT(counters.misses, 0u);
  EXPECT_LT(counters.misses, 12u * model.num_layers() * model.num_experts_per_tok());
  EXPECT_EQ(counters.missBytes, counters.misses * 8 * model.hidden_size()) << "activations alone";
  // Several at once, with a program of its own; prompts read these experts in place.
  Served atOnce(*artifact, "host_compute", "cuda"), inPlace(*artifact, "split", "cuda");
  ASSERT_TRUE(atOnce.session->append(tokens.first(5), 5).ok());
  const std::vector<float> five(got.begin(), got.begin() + ptrdiff_t(5 * model.vocab_size()));
  const float *rows = atOnce.session->logits(0);
  EXPECT_LE(farthest(std::vector<float>(rows, rows + five.size()), five), kHostDifference);
  const auto prompt = [&](Served &of) {
    of.session->reset();
    EXPECT_TRUE(of.session->append(tokens, 1).ok());
    return std::vector<float>(of.session->logits(0),
                              of.session->logits(0) + of.session->vocabSize());
  };
  EXPECT_EQ(prompt(atOnce), prompt(inPlace));
}

TEST_F(CudaMissTest, WhatTheHostComputesIsCountedAndTheSameOneByOne) {
  const auto artifact = open(Artifacts::cuda());
  Served served(*artifact, "host_compute", "cuda");
  Session &session = *served.session;
  const auto tokens = std::span(promptTokens()).first(3);
  ASSERT_TRUE(session.append(tokens, 3).ok());
  const std::vector<float> expected(session.logits(0), session.logits(0) + 3 * session.vocabSize());
  session.reset();
  const auto work = session.appendCounted(tokens, 3);
  ASSERT_TRUE(work.ok());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), session.logits(0)));
  EXPECT_GT(work.value().int8_operations, 0u) << "the CPU's products of codes";
  EXPECT_GT(work.value().bf16_operations, 0u);
  EXPECT_GT(work.value().host_bytes, 0u);
  EXPECT_LT(work.value().host_bytes, work.value().weight_bytes);
  session.reset();
  const auto times = session.measureKernels(tokens, 3, 2);
  ASSERT_TRUE(times.ok());
  int onHost = 0;
  for (const KernelTime &time : times.value()) {
    onHost += time.kernel && time.kernel->machine() == fb::Machine::cpu;
    EXPECT_GT(time.seconds, 0);
  }
  EXPECT_EQ(onHost, 3);
}

TEST_F(CudaMissTest, ExpertsThatLeaveAreComputedByTheHost) {
  const auto artifact = open(Artifacts::cuda());
  const std::vector<int32_t> tokens = twelveTokens();
  const std::vector<float> expected = [&] {
    Served served(*artifact, "int4", "cuda");
    return logitsOneByOne(*served.session, tokens);
  }();
  Served served(*artifact, "host_compute", "cuda", 256, 2);
  Session &session = *served.session;
  LoadedPlan &active = session.active();
  const std::vector<float> before = logitsOneByOne(session, tokens);
  const uint64_t missesBefore = served.residency().counters().misses;
  for (uint32_t expert : {1u, 2u, 4u, 7u}) // all others of the first layer
    session.atBoundary([&] { active.evict(expert, {}); });
  session.reset();
  EXPECT_LE(farthest(logitsOneByOne(session, tokens), expected), kHostDifference);
  EXPECT_GT(served.residency().counters().misses - missesBefore, missesBefore);
  for (uint32_t expert : {1u, 2u, 4u, 7u}) {
    ASSERT_TRUE(active.bringBack(expert, {}).ok());
    session.atBoundary([&] { active.putBack(expert); });
  }
  session.reset();
  EXPECT_EQ(logitsOneByOne(session, tokens), before);
}

} // namespace
} // namespace moeplan::testing
