// What the C API counts and measures of a run. Times are only asked to be there.
#include "tests/unit/model/random_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace moeplan::testing {
namespace {

// The uneven model, and how it is compiled by default: all of it bf16, and so is the KV cache.
constexpr uint64_t kVocab = 512, kHidden = 192, kIntermediate = 320, kLayers = 2, kHeads = 6,
                   kKvHeads = 3, kHeadDim = 32, kExperts = 6, kTopK = 2;
constexpr uint64_t kKvFeatures = kKvHeads * kHeadDim, kQFeatures = kHeads * kHeadDim;

/// Of a product of `rows` tokens with a matrix.
constexpr uint64_t product(uint64_t rows, uint64_t out, uint64_t in) { return 2 * rows * out * in; }
/// Of scores and sums over `seen` (token, position) pairs of a layer.
constexpr uint64_t attention(uint64_t seen) { return 2 * 2 * seen * kHeads * kHeadDim; }
constexpr uint64_t queriesAndOutput(uint64_t rows) {
  return product(rows, kQFeatures, kHidden) + product(rows, kHidden, kQFeatures);
}
constexpr uint64_t keysAndValues(uint64_t rows) { return 2 * product(rows, kKvFeatures, kHidden); }
constexpr uint64_t experts(uint64_t rows) {
  return 3 * product(rows * kTopK, kIntermediate, kHidden);
}
constexpr uint64_t router(uint64_t rows) { return product(rows, kExperts, kHidden); }
constexpr uint64_t head(uint64_t rows) { return product(rows, kVocab, kHidden); }
/// Of keys and values in one layer.
constexpr uint64_t cacheBytes(uint64_t positions) { return 2 * positions * kKvFeatures * 2; }

class WorkTest : public ::testing::Test {
protected:
  moeplan_work append(const std::vector<int32_t> &tokens, size_t logitsCount) {
    moeplan_work work{};
    const Outcome outcome = take(moeplan_session_append_counted(session.get(), tokens.data(),
                                                                tokens.size(), logitsCount, &work));
    EXPECT_EQ(outcome.code, MOEPLAN_OK) << outcome.message;
    return work;
  }
  nlohmann::json measure(const std::vector<int32_t> &tokens, size_t logitsCount) {
    char *text = nullptr;
    const Outcome outcome = take(moeplan_session_measure_kernels(
        session.get(), tokens.data(), tokens.size(), logitsCount, 2, &text));
    EXPECT_EQ(outcome.code, MOEPLAN_OK) << outcome.message;
    auto json = nlohmann::json::parse(text);
    moeplan_string_free(text);
    return json;
  }
  uint64_t bytesPerToken() const { return moeplan_session_weight_bytes_per_token(session.get()); }

  const SessionHandle session = createSession(unevenModel().artifact.get(), {.threads = 2});
};

TEST_F(WorkTest, ATokenReadsTheWeightsOfThePlanAndTheCache) {
  for (uint64_t position = 0; position < 40; ++position) {
    const moeplan_work work = append({int32_t(position + 3)}, 1);
    EXPECT_EQ(work.weight_bytes, bytesPerToken());
    EXPECT_EQ(work.cache_bytes, kLayers * cacheBytes(position + 1));
    EXPECT_EQ(work.f32_operations, kLayers * router(1));
    EXPECT_EQ(work.bf16_operations, kLayers * (queriesAndOutput(1) + keysAndValues(1) +
                                               attention(position + 1) + experts(1)) +
                                        head(1));
    EXPECT_EQ(work.int8_operations, 0u);
  }
}

TEST_F(WorkTest, APromptLeavesOutWhatOnlyRowsWithoutLogitsNeed) {
  constexpr uint64_t kTokens = 20, kSeen = kTokens * (kTokens + 1) / 2;
  const std::vector<int32_t> tokens = randomTokens(kTokens, kVocab);
  const uint64_t first =
      queriesAndOutput(kTokens) + keysAndValues(kTokens) + attention(kSeen) + experts(kTokens);

  moeplan_work work = append(tokens, 1);
  EXPECT_EQ(work.bf16_operations, first + keysAndValues(kTokens) + queriesAndOutput(1) +
                                      attention(kTokens) + experts(1) + head(1));
  EXPECT_EQ(work.f32_operations, router(kTokens) + router(1));
  EXPECT_EQ(work.cache_bytes, kLayers * cacheBytes(kTokens));

  moeplan_session_reset(session.get());
  work = append(tokens, kTokens);
  EXPECT_EQ(work.bf16_operations, kLayers * first + head(kTokens));
  EXPECT_EQ(work.f32_operations, kLayers * router(kTokens));

  moeplan_session_reset(session.get());
  work = append(tokens, 0);
  EXPECT_EQ(work.f32_operations, router(kTokens));
  EXPECT_EQ(work.cache_bytes, cacheBytes(kTokens));
  EXPECT_LT(work.weight_bytes, bytesPerToken() * kTokens);
}

TEST_F(WorkTest, ASlidingWindowBoundsWhatAttentionReads) {
  RandomModelVariant windowed;
  for (const RandomModelVariant &variant : randomModelVariants())
    if (variant.name == "ShardedSlidingWindow5")
      windowed = variant;
  const SessionHandle other = createSession(compiledModel(windowed).artifact.get());
  const std::vector<int32_t> tokens = randomTokens(20, kVocab);
  moeplan_work work{};
  ASSERT_EQ(take(moeplan_session_append_counted(other.get(), tokens.data(), 20, 1, &work)).code,
            MOEPLAN_OK);
  EXPECT_EQ(work.cache_bytes, cacheBytes(20) + cacheBytes(5)); // the last layer: of one token
  ASSERT_EQ(take(moeplan_session_append_counted(other.get(), tokens.data(), 1, 1, &work)).code,
            MOEPLAN_OK);
  EXPECT_EQ(work.cache_bytes, kLayers * cacheBytes(5));
}

TEST_F(WorkTest, WeightsThatTokensShareAreReadOnce) {
  // Equal tokens are routed alike wherever they stand: their values average to themselves.
  const moeplan_work equal = append(std::vector<int32_t>(8, 7), 8);
  EXPECT_EQ(equal.weight_bytes, bytesPerToken());
  EXPECT_GT(append(randomTokens(8, kVocab), 8).weight_bytes, bytesPerToken());
}

TEST_F(WorkTest, CountingAndMeasuringComputeTheLogitsOfAnAppend) {
  const std::vector<int32_t> tokens = randomTokens(70, kVocab); // through two programs
  const auto logits = [&] {
    const float *row = moeplan_session_logits(session.get(), 0);
    return std::vector<float>(row, row + kVocab);
  };
  ASSERT_EQ(take(moeplan_session_append(session.get(), tokens.data(), 70, 1)).code, MOEPLAN_OK);
  const std::vector<float> expected = logits();
  moeplan_session_reset(session.get());
  append(tokens, 1);
  EXPECT_EQ(moeplan_session_position(session.get()), 70u);
  EXPECT_EQ(logits(), expected);
  moeplan_session_reset(session.get());
  measure(tokens, 1);
  EXPECT_EQ(moeplan_session_position(session.get()), 70u);
  EXPECT_EQ(logits(), expected);
}

TEST_F(WorkTest, TheWorkOfTheKernelsIsThatOfTheirProgram) {
  for (size_t count : {size_t(1), size_t(5), size_t(30)}) {
    const std::vector<int32_t> tokens = randomTokens(count, kVocab);
    moeplan_session_reset(session.get());
    const moeplan_work whole = append(tokens, 1);
    moeplan_session_reset(session.get());
    moeplan_work sum{};
    for (const auto &kernel : measure(tokens, 1)) {
      EXPECT_GT(kernel["dispatches"], 0);
      EXPECT_GT(kernel["seconds"], 0.0);
      sum.weight_bytes += uint64_t(kernel["weight_bytes"]);
      sum.cache_bytes += uint64_t(kernel["cache_bytes"]);
      sum.f32_operations += uint64_t(kernel["f32_operations"]);
      sum.bf16_operations += uint64_t(kernel["bf16_operations"]);
      sum.int8_operations += uint64_t(kernel["int8_operations"]);
    }
    EXPECT_EQ(sum.weight_bytes, whole.weight_bytes);
    EXPECT_EQ(sum.cache_bytes, whole.cache_bytes);
    EXPECT_EQ(sum.f32_operations, whole.f32_operations);
    EXPECT_EQ(sum.bf16_operations, whole.bf16_operations);
    EXPECT_EQ(sum.int8_operations, whole.int8_operations);
  }
}

TEST_F(WorkTest, WhatCannotBeAppendedCannotBeMeasured) {
  const int32_t bad = -1, good = 1;
  moeplan_work work{};
  char *json = nullptr;
  EXPECT_EQ(take(moeplan_session_append_counted(session.get(), &bad, 1, 1, &work)).code,
            MOEPLAN_INVALID_ARGUMENT);
  EXPECT_EQ(take(moeplan_session_measure_kernels(session.get(), &bad, 1, 1, 1, &json)).code,
            MOEPLAN_INVALID_ARGUMENT);
  EXPECT_EQ(take(moeplan_session_measure_kernels(session.get(), &good, 1, 1, 0, &json)).message,
            "measuring kernels needs a repetition");
  EXPECT_EQ(json, nullptr);
  EXPECT_EQ(moeplan_session_position(session.get()), 0u);
}

TEST_F(WorkTest, EveryArithmeticHasAPeak) {
  double rate = 0;
  for (auto arithmetic :
       {MOEPLAN_ARITHMETIC_F32, MOEPLAN_ARITHMETIC_BF16, MOEPLAN_ARITHMETIC_INT8}) {
    rate = 0;
    EXPECT_EQ(take(moeplan_measure_arithmetic_peak(arithmetic, 2, 1, &rate)).code, MOEPLAN_OK);
    EXPECT_GT(rate, 0);
  }
  rate = 0;
  for (moeplan_status *status :
       {moeplan_measure_arithmetic_peak(MOEPLAN_ARITHMETIC_F32, 0, 1, &rate),
        moeplan_measure_arithmetic_peak(MOEPLAN_ARITHMETIC_F32, 100000, 1, &rate),
        moeplan_measure_arithmetic_peak(MOEPLAN_ARITHMETIC_F32, 1, 0, &rate),
        moeplan_measure_arithmetic_peak(moeplan_arithmetic(3), 1, 1, &rate)})
    EXPECT_EQ(take(status).code, MOEPLAN_INVALID_ARGUMENT);
  EXPECT_EQ(rate, 0);
}

} // namespace
} // namespace moeplan::testing
