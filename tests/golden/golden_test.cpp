// The tiny checkpoint through compiler, artifact and C API, held against numbers that an
// independent float32 implementation computed.
#include "tests/support/api.h"
#include "tests/support/compile.h"
#include "tests/support/files.h"
#include "tests/support/npy.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>

namespace moeplan::testing {
namespace {

/// Activations beside bf16 weights are bf16, and so is the KV cache, which alone makes 0.0503.
constexpr double kMaxLogitDifference = 0.1, kMaxExactDifference = 1e-4, kMaxMeanDivergence = 1e-4;
constexpr double kMaxPerplexityRatio = 0.002;
/// Below this gap between the reference's two best logits a greedy continuation may part.
constexpr float kDecidedGap = 0.05f;
/// Longer evaluations of perplexity.json are left to `moeplan eval`.
constexpr int kMaxWindows = 64;

const std::filesystem::path kGolden = MOEPLAN_SOURCE_DIR "/tests/golden";

/// ln(sum e^x)
double logSumExp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits)
    sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

/// KL(softmax(p) || softmax(q))
double divergence(std::span<const float> p, std::span<const float> q) {
  const double logP = logSumExp(p), logQ = logSumExp(q);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i)
    sum += std::exp(p[i] - logP) * ((p[i] - logP) - (q[i] - logQ));
  return sum;
}

class GoldenTest : public ::testing::Test {
protected:
  static void SetUpTestSuite() {
    directory = std::make_unique<TemporaryDirectory>();
    compileArtifact(kTinyMixtral, directory->path() / "tiny.moeplan");
    artifact = openArtifact(directory->path() / "tiny.moeplan");
    session = createSession(artifact.get());
    compiler::CompileOptions exact;
    exact.checkpoint = kTinyMixtral;
    exact.output = directory->path() / "exact.moeplan";
    exact.expertFormat = exact.nonExpertFormat = exact.kvFormat = "f32";
    compileArtifact(exact);
    exactArtifact = openArtifact(exact.output);
    exactSession = createSession(exactArtifact.get());
    vocabSize = moeplan_artifact_model_info(artifact.get()).vocab_size;
    prompts = nlohmann::json::parse(readFile(kGolden / "prompts.json"));
  }
  static void TearDownTestSuite() {
    exactSession.reset();
    exactArtifact.reset();
    session.reset();
    artifact.reset();
    directory.reset();
    prompts = nullptr;
  }

  void SetUp() override { moeplan_session_reset(session.get()); }

  /// Holds every prompt's logits against the golden ones, computed in chunks of `chunk` tokens.
  static void expectGoldenLogits(const char *how, moeplan_session *session, size_t chunk,
                                 double mostDifference, double mostDivergence) {
    double largest = 0, largestMean = 0;
    for (const auto &prompt : prompts) {
      const auto tokens = prompt.at("ids").get<std::vector<int32_t>>();
      const Matrix golden = readNpy(kGolden / prompt.at("logits").get<std::string>());
      ASSERT_EQ(golden.rows, tokens.size());
      ASSERT_EQ(golden.columns, vocabSize);
      moeplan_session_reset(session);
      const std::vector<float> logits = logitsOf(session, tokens, vocabSize, chunk);
      ASSERT_EQ(logits.size(), golden.values.size());
      for (size_t i = 0; i < logits.size(); ++i)
        largest = std::max(largest, std::abs(double(logits[i]) - golden.values[i]));
      double sum = 0;
      for (size_t row = 0; row < golden.rows; ++row)
        sum += divergence(std::span(golden.values).subspan(row * vocabSize, vocabSize),
                          std::span(logits).subspan(row * vocabSize, vocabSize));
      largestMean = std::max(largestMean, sum / double(golden.rows));
    }
    std::cout << how << ": max |logit difference| " << largest << ", largest mean KL "
              << largestMean << "\n";
    EXPECT_LE(largest, mostDifference);
    EXPECT_LE(largestMean, mostDivergence);
  }

  static inline std::unique_ptr<TemporaryDirectory> directory;
  static inline ArtifactHandle artifact, exactArtifact;
  static inline SessionHandle session, exactSession; ///< exact: float32 weights and KV cache
  static inline size_t vocabSize = 0;
  static inline nlohmann::json prompts;
};

TEST_F(GoldenTest, PrefillLogitsAreNearTheGoldenOnes) {
  expectGoldenLogits("prefill", session.get(), 0, kMaxLogitDifference, kMaxMeanDivergence);
}

TEST_F(GoldenTest, TokenByTokenLogitsAreNearTheGoldenOnes) {
  expectGoldenLogits("decode", session.get(), 1, kMaxLogitDifference, kMaxMeanDivergence);
}

TEST_F(GoldenTest, Float32LogitsEqualTheGoldenOnes) {
  expectGoldenLogits("float32, prefill", exactSession.get(), 0, kMaxExactDifference, 1e-9);
  expectGoldenLogits("float32, decode", exactSession.get(), 1, kMaxExactDifference, 1e-9);
}

TEST_F(GoldenTest, PromptsTokenizeToTheGoldenIds) {
  for (const auto &prompt : prompts)
    EXPECT_EQ(tokenize(artifact.get(), prompt.at("prompt"), /*addBos=*/true),
              prompt.at("ids").get<std::vector<int32_t>>())
        << prompt.at("prompt");
}

TEST_F(GoldenTest, GreedyContinuationsEqualTheGoldenOnesWhereTheyAreDecided) {
  size_t compared = 0, recorded = 0;
  for (const auto &prompt : prompts) {
    std::vector<int32_t> next = prompt.at("ids");
    const auto greedy = prompt.at("greedy").get<std::vector<int32_t>>();
    const auto gaps = prompt.at("top1_top2_gap").get<std::vector<float>>();
    ASSERT_EQ(greedy.size(), gaps.size());
    recorded += greedy.size();
    moeplan_session_reset(session.get());
    for (size_t i = 0; i < greedy.size() && gaps[i] >= kDecidedGap; ++i, ++compared) {
      const std::vector<float> logits = logitsOf(session.get(), next, vocabSize);
      const auto last = logits.end() - ptrdiff_t(vocabSize);
      next = {int32_t(std::max_element(last, logits.end()) - last)};
      ASSERT_EQ(next[0], greedy[i]) << prompt.at("prompt") << ", step " << i;
    }
  }
  std::cout << "greedy: " << compared << " of " << recorded << " recorded tokens compared\n";
  EXPECT_GT(compared, recorded / 3);
}

TEST_F(GoldenTest, PerplexitiesEqualTheGoldenOnes) {
  std::map<std::string, std::vector<int32_t>> texts;
  for (const auto &entry : nlohmann::json::parse(readFile(kGolden / "perplexity.json"))) {
    const size_t windows = entry.at("windows"), context = entry.at("context");
    if (windows > kMaxWindows)
      continue;
    const std::string name = entry.at("text");
    std::vector<int32_t> &tokens = texts[name];
    if (tokens.empty())
      tokens = tokenize(artifact.get(), readFile(kTinyMixtral / name), /*addBos=*/false);
    ASSERT_EQ(tokens.size(), entry.at("file_tokens").get<size_t>());

    std::vector<int32_t> window(context);
    double sum = 0;
    for (size_t w = 0; w < windows; ++w) {
      window[0] = moeplan_artifact_model_info(artifact.get()).bos_token_id;
      std::copy_n(tokens.begin() + ptrdiff_t(w * (context - 1)), context - 1, window.begin() + 1);
      moeplan_session_reset(session.get());
      const std::vector<float> logits = logitsOf(session.get(), window, vocabSize);
      for (size_t i = 0; i + 1 < context; ++i) {
        const auto row = std::span(logits).subspan(i * vocabSize, vocabSize);
        sum += logSumExp(row) - row[size_t(window[i + 1])];
      }
    }
    const double perplexity = std::exp(sum / double(windows * (context - 1)));
    const double golden = entry.at("perplexity");
    std::cout << "perplexity of " << name << ", " << windows << " x " << context << ": "
              << perplexity << ", golden " << golden << ", ratio - 1 = " << perplexity / golden - 1
              << "\n";
    EXPECT_NEAR(perplexity / golden, 1, kMaxPerplexityRatio) << name << ", context " << context;
  }
}

} // namespace
} // namespace moeplan::testing
