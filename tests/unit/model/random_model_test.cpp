// Whole models against the scalar reference, and against themselves executed in another way.
#include "tests/unit/model/random_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

namespace moeplan::testing {
namespace {

/// Programs and reference differ in the order of float32 sums, by about sqrt(320) * 2^-24 = 1e-6 of
/// the size of a sum per product; logits are of size 1 to 4, behind two layers.
constexpr float kTolerance = 1e-4f;

/// Fits the smallest prefill program, needs the largest, and needs two programs.
constexpr size_t kShort = 7, kLong = 70, kLongest = 300;

class RandomModelTest : public ::testing::TestWithParam<RandomModelVariant> {};

TEST_P(RandomModelTest, LogitsEqualTheReference) {
  const CompiledModel &model = compiledModel(GetParam());
  // Without rounding to bf16.
  const ReferenceModel reference(*model.checkpoint, [&](const std::string &name) {
    const compiler::TensorInfo &tensor = model.checkpoint->tensors().at(name + ".weight");
    return decodeTensor(model.checkpoint->bytes(tensor), tensor.dtype);
  });
  const std::vector<int32_t> tokens = randomTokens(kLongest, model.vocabSize());
  const std::vector<float> expected = reference.logits(tokens);
  const ArtifactHandle exact = model.compileExact();
  const SessionHandle session = createSession(exact.get());
  for (size_t count : {kShort, kLong, kLongest}) {
    moeplan_session_reset(session.get());
    const std::vector<float> logits =
        logitsOf(session.get(), std::span(tokens).first(count), model.vocabSize());
    ASSERT_EQ(logits.size(), count * model.vocabSize());
    float largest = 0;
    for (size_t i = 0; i < logits.size(); ++i)
      largest = std::max(largest, std::abs(logits[i] - expected[i]));
    std::cout << GetParam().name << ", " << count << " tokens: max |logit difference| " << largest
              << "\n";
    EXPECT_LE(largest, kTolerance) << count << " tokens";
  }
}

TEST_P(RandomModelTest, ChunksOfAnySizeGiveTheSameBytes) {
  const CompiledModel &model = compiledModel(GetParam());
  const std::vector<int32_t> tokens = randomTokens(kLong, model.vocabSize());
  const SessionHandle session = createSession(model.artifact.get());
  const std::vector<float> whole = logitsOf(session.get(), tokens, model.vocabSize());
  for (size_t chunk : {1, 2, 3, 5, 33, 64, 69}) {
    moeplan_session_reset(session.get());
    EXPECT_EQ(logitsOf(session.get(), tokens, model.vocabSize(), chunk), whole)
        << "chunks of " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, RandomModelTest, ::testing::ValuesIn(randomModelVariants()),
                         [](const auto &info) { return info.param.name; });

TEST(SessionTest, AnyNumberOfThreadsGivesTheSameBytes) {
  const CompiledModel &model = unevenModel();
  const std::vector<int32_t> tokens = randomTokens(kLong, model.vocabSize());
  std::vector<float> prefill, decode;
  for (uint32_t threads : {1, 2, 3}) {
    const SessionHandle session = createSession(model.artifact.get(), {.threads = threads});
    ASSERT_EQ(moeplan_session_threads(session.get()), threads);
    const std::vector<float> ours = logitsOf(session.get(), tokens, model.vocabSize());
    const std::vector<float> oneByOne =
        logitsOf(session.get(), std::span(tokens).first(kShort), model.vocabSize(), 1);
    if (threads == 1) {
      prefill = ours;
      decode = oneByOne;
    }
    EXPECT_EQ(ours, prefill) << threads << " threads";
    EXPECT_EQ(oneByOne, decode) << threads << " threads";
  }
}

TEST(SessionTest, OnlyTheRequestedRowsOfLogitsAreGiven) {
  const CompiledModel &model = unevenModel();
  const std::vector<int32_t> tokens = randomTokens(kLongest, model.vocabSize());
  const SessionHandle session = createSession(model.artifact.get());
  const std::vector<float> all = logitsOf(session.get(), tokens, model.vocabSize());
  for (size_t count : {size_t(0), size_t(1), size_t(40), size_t(45), size_t(299), kLongest}) {
    moeplan_session_reset(session.get());
    ASSERT_EQ(take(moeplan_session_append(session.get(), tokens.data(), tokens.size(), count)).code,
              MOEPLAN_OK);
    for (size_t row = 0; row < count; ++row) {
      const float *logits = moeplan_session_logits(session.get(), row);
      ASSERT_TRUE(std::equal(logits, logits + model.vocabSize(),
                             all.end() - ptrdiff_t((count - row) * model.vocabSize())))
          << "row " << row << " of " << count;
    }
    EXPECT_EQ(moeplan_session_logits(session.get(), count), nullptr);
  }
}

TEST(SessionTest, ResetForgetsTheSequence) {
  const CompiledModel &model = unevenModel();
  const std::vector<int32_t> first = randomTokens(9, model.vocabSize(), 1);
  const std::vector<int32_t> second = randomTokens(kShort, model.vocabSize(), 2);
  const SessionHandle fresh = createSession(model.artifact.get());
  const std::vector<float> expected = logitsOf(fresh.get(), second, model.vocabSize());

  const SessionHandle used = createSession(model.artifact.get());
  logitsOf(used.get(), first, model.vocabSize());
  EXPECT_EQ(moeplan_session_position(used.get()), first.size());
  moeplan_session_reset(used.get());
  EXPECT_EQ(moeplan_session_position(used.get()), 0u);
  EXPECT_EQ(logitsOf(used.get(), second, model.vocabSize()), expected);
}

TEST(SessionTest, SessionsOfOneArtifactAreIndependent) {
  const CompiledModel &model = unevenModel();
  const std::vector<int32_t> tokens = randomTokens(12, model.vocabSize());
  const SessionHandle alone = createSession(model.artifact.get());
  const std::vector<float> expected = logitsOf(alone.get(), tokens, model.vocabSize(), 1);

  const SessionHandle one = createSession(model.artifact.get());
  const SessionHandle other = createSession(model.artifact.get(), {.contextLength = 64});
  std::vector<float> interleaved;
  for (int32_t token : tokens) {
    const std::vector<float> row = logitsOf(one.get(), {{token}}, model.vocabSize());
    interleaved.insert(interleaved.end(), row.begin(), row.end());
    logitsOf(other.get(), {{(token + 1) % int32_t(model.vocabSize())}}, model.vocabSize());
  }
  EXPECT_EQ(interleaved, expected);
}

} // namespace
} // namespace moeplan::testing
