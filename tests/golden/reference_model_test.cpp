// The oracle itself, held against numbers of an independent float32 implementation.
#include "tests/support/npy.h"
#include "tests/support/random_checkpoint.h"
#include "tests/support/reference_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace moeplan::testing {
namespace {

/// Logits differ by the order of float32 sums only; they reach about 20 in magnitude.
constexpr float kMaxLogitDifference = 1e-4f;
/// The recorded gaps have four decimals.
constexpr float kMaxGapDifference = 1e-4f;

const std::filesystem::path kGolden = MOEPLAN_SOURCE_DIR "/tests/golden";

class ReferenceModelTest : public ::testing::Test {
protected:
  static void SetUpTestSuite() {
    auto checkpoint = compiler::Checkpoint::open(MOEPLAN_SOURCE_DIR "/examples/tiny-mixtral");
    ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
    model = std::make_unique<ReferenceModel>(**checkpoint);
    vocabSize = (*checkpoint)->config().vocabSize;
    prompts = nlohmann::json::parse(readFile(kGolden / "prompts.json"));
  }
  static void TearDownTestSuite() {
    model.reset();
    prompts = nullptr;
  }

  static inline std::unique_ptr<ReferenceModel> model;
  static inline size_t vocabSize = 0;
  static inline nlohmann::json prompts;
};

TEST_F(ReferenceModelTest, LogitsEqualTheGoldenOnes) {
  float largest = 0;
  for (const auto &prompt : prompts) {
    auto tokens = prompt.at("ids").get<std::vector<int32_t>>();
    Matrix golden = readNpy(kGolden / prompt.at("logits").get<std::string>());
    ASSERT_EQ(golden.rows, tokens.size());
    ASSERT_EQ(golden.columns, vocabSize);
    std::vector<float> logits = model->logits(tokens);
    ASSERT_EQ(logits.size(), golden.values.size());
    for (size_t i = 0; i < logits.size(); ++i)
      largest = std::max(largest, std::abs(logits[i] - golden.values[i]));
  }
  RecordProperty("max_logit_difference", std::to_string(largest));
  EXPECT_LE(largest, kMaxLogitDifference);
}

// Greedy decoding, without decoding: each token of the continuation is the likeliest one after the
// tokens before it.
TEST_F(ReferenceModelTest, GreedyContinuationsEqualTheGoldenOnes) {
  for (const auto &prompt : prompts) {
    auto tokens = prompt.at("ids").get<std::vector<int32_t>>();
    auto greedy = prompt.at("greedy").get<std::vector<int32_t>>();
    auto gaps = prompt.at("top1_top2_gap").get<std::vector<float>>();
    ASSERT_EQ(greedy.size(), gaps.size());
    size_t start = tokens.size() - 1; // the position that predicts the first of them
    tokens.insert(tokens.end(), greedy.begin(), greedy.end());
    std::vector<float> logits = model->logits(tokens);
    for (size_t i = 0; i < greedy.size(); ++i) {
      auto row = logits.begin() + ptrdiff_t((start + i) * vocabSize);
      std::vector<float> sorted(row, row + ptrdiff_t(vocabSize));
      EXPECT_EQ(std::max_element(sorted.begin(), sorted.end()) - sorted.begin(), greedy[i])
          << prompt.at("prompt") << ", step " << i;
      std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
      EXPECT_NEAR(sorted[0] - sorted[1], gaps[i], kMaxGapDifference)
          << prompt.at("prompt") << ", step " << i;
    }
  }
}

TEST_F(ReferenceModelTest, RefusesATokenOutsideTheVocabulary) {
  EXPECT_THROW(model->logits({int32_t(vocabSize)}), std::out_of_range);
  EXPECT_THROW(model->logits({-1}), std::out_of_range);
}

TEST(RoundToBFloat16Test, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(roundToBFloat16(1.0f), 1.0f);
  EXPECT_EQ(roundToBFloat16(0x1.01p0f), 0x1.00p0f);   // tie, even is below
  EXPECT_EQ(roundToBFloat16(0x1.03p0f), 0x1.04p0f);   // tie, even is above
  EXPECT_EQ(roundToBFloat16(0x1.0102p0f), 0x1.02p0f); // above the tie
  EXPECT_EQ(roundToBFloat16(-0x1.03p0f), -0x1.04p0f);
  EXPECT_TRUE(std::isinf(roundToBFloat16(0x1.ffffp127f)));
  EXPECT_TRUE(std::isnan(roundToBFloat16(std::nanf(""))));
}

TEST(ReferenceModelWindowTest, PositionsBeyondEveryLayersWindowDoNotMatter) {
  TemporaryDirectory directory;
  RandomCheckpointOptions options;
  options.config.slidingWindow = 3;
  options.tokenizer = MOEPLAN_SOURCE_DIR "/examples/tiny-mixtral/tokenizer.model";
  writeRandomCheckpoint(directory.path(), options);
  auto checkpoint = compiler::Checkpoint::open(directory.path().string());
  ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
  ReferenceModel windowed(**checkpoint);

  // Each layer reaches window - 1 positions further back.
  const auto &config = (*checkpoint)->config();
  size_t reach = config.numLayers * (config.slidingWindow - 1);
  std::vector<int32_t> tokens(reach + 2);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = int32_t(1 + i);
  auto lastRow = [&](const std::vector<int32_t> &ids) {
    std::vector<float> logits = windowed.logits(ids);
    return std::vector<float>(logits.end() - config.vocabSize, logits.end());
  };
  std::vector<float> expected = lastRow(tokens);
  std::vector<int32_t> outside = tokens, inside = tokens;
  outside[0] = 100;
  inside[1] = 100;
  EXPECT_EQ(lastRow(outside), expected);
  EXPECT_NE(lastRow(inside), expected);
}

TEST(NpyTest, ReadsWhatItWrote) {
  TemporaryDirectory directory;
  Matrix matrix{2, 3, {1, 2, 3, -4, 5.5f, 6}};
  writeNpy(directory.path() / "m.npy", matrix);
  Matrix read = readNpy(directory.path() / "m.npy");
  EXPECT_EQ(read.rows, matrix.rows);
  EXPECT_EQ(read.columns, matrix.columns);
  EXPECT_EQ(read.values, matrix.values);
}

TEST(NpyTest, RefusesAFileThatIsCut) {
  TemporaryDirectory directory;
  writeNpy(directory.path() / "m.npy", {1, 2, {1, 2}});
  std::string bytes = readFile(directory.path() / "m.npy");
  for (size_t length = 0; length < bytes.size(); ++length) {
    writeFile(directory.path() / "cut.npy", llvm::StringRef(bytes).take_front(length));
    EXPECT_THROW(readNpy(directory.path() / "cut.npy"), std::runtime_error) << length;
  }
}

} // namespace
} // namespace moeplan::testing
