// Models without trained weights: generated when an artifact is loaded, or written as a checkpoint.
#include "compiler/import/checkpoint_digest.h"
#include "compiler/import/synthetic_checkpoint.h"
#include "tests/support/compile.h"
#include "tests/unit/model/random_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace moeplan::testing {
namespace {

class SyntheticModelTest : public ::testing::Test {
protected:
  SyntheticModelTest() { writeFile(path("config.json"), mixtralConfigJson(config)); }

  std::filesystem::path path(const std::string &name) const { return directory.path() / name; }

  std::filesystem::path compileSynthetic(uint64_t seed, const std::string &format = "int4g64") {
    compiler::CompileOptions options;
    options.config = path("config.json");
    options.syntheticSeed = seed;
    options.expertFormat = format;
    options.output = path("seed" + std::to_string(seed) + format + ".moeplan");
    compileArtifact(options);
    return options.output;
  }

  std::filesystem::path writeCheckpoint(const std::string &name, uint64_t seed = 1,
                                        uint64_t maxShardBytes = uint64_t(1) << 30) const {
    compiler::SyntheticCheckpointOptions options;
    options.config = path("config.json");
    options.seed = seed;
    options.output = path(name);
    options.maxShardBytes = maxShardBytes;
    llvm::cantFail(compiler::writeSyntheticCheckpoint(options));
    return options.output;
  }

  std::vector<float> logits(const moeplan_artifact *artifact) const {
    const SessionHandle session = createSession(artifact, {.threads = 2});
    return logitsOf(session.get(), randomTokens(20, config.vocabSize), config.vocabSize);
  }

  const compiler::MixtralConfig config = unevenMixtralConfig();
  TemporaryDirectory directory;
};

double deviationOf(const std::vector<float> &values) {
  double sum = 0, squares = 0;
  for (float value : values) {
    sum += value;
    squares += double(value) * value;
  }
  const auto count = double(values.size());
  return std::sqrt(squares / count - sum / count * sum / count);
}

TEST_F(SyntheticModelTest, ASmallFileRunsAndGivesLogitsLikeATrainedModels) {
  for (const char *format : {"int4g64", "int2g32", "bf16"}) {
    const std::filesystem::path file = compileSynthetic(1, format);
    EXPECT_LT(std::filesystem::file_size(file), 200'000u);
    const ArtifactHandle artifact = openArtifact(file);
    EXPECT_EQ(take(moeplan_artifact_verify(artifact.get(), nullptr, nullptr)).message, "ok");
    const std::vector<float> values = logits(artifact.get());
    EXPECT_TRUE(
        std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }));
    EXPECT_GT(deviationOf(values), 0.5) << format;
    EXPECT_LT(deviationOf(values), 2) << format;
  }
}

TEST_F(SyntheticModelTest, SessionsShareWeightsAndTheSeedDecidesThem) {
  const ArtifactHandle artifact = openArtifact(compileSynthetic(1));
  const std::vector<float> first = logits(artifact.get());
  EXPECT_EQ(logits(artifact.get()), first);
  EXPECT_EQ(logits(openArtifact(path("seed1int4g64.moeplan")).get()), first);
  EXPECT_NE(logits(openArtifact(compileSynthetic(2)).get()), first);
}

TEST_F(SyntheticModelTest, AnArtifactSaysThatItsWeightsAreSynthetic) {
  const ArtifactHandle artifact = openArtifact(compileSynthetic(5));
  uint64_t seed = 0;
  EXPECT_TRUE(moeplan_artifact_is_synthetic(artifact.get(), &seed));
  EXPECT_EQ(seed, 5u);
  EXPECT_FALSE(moeplan_artifact_has_tokenizer(artifact.get()));
  const auto description = nlohmann::json::parse(inspect(artifact.get()));
  EXPECT_EQ(description.at("synthetic"), true);
  EXPECT_EQ(description.at("synthetic_seed"), 5u);
  for (const auto &segment : description.at("segments"))
    EXPECT_EQ(segment.at("synthetic"), segment.at("kind") == "weight");
  EXPECT_FALSE(moeplan_artifact_is_synthetic(unevenModel().artifact.get(), &seed));
  EXPECT_TRUE(moeplan_artifact_has_tokenizer(unevenModel().artifact.get()));

  int32_t *tokens = nullptr;
  size_t count = 0;
  const Outcome outcome = take(moeplan_tokenize(artifact.get(), "a", 1, false, &tokens, &count));
  EXPECT_EQ(outcome.code, MOEPLAN_NOT_FOUND);
  EXPECT_EQ(outcome.message, "the artifact has no tokenizer");
}

TEST_F(SyntheticModelTest, ACheckpointOfRandomWeightsCompilesAndRuns) {
  const std::filesystem::path checkpoint = writeCheckpoint("checkpoint");
  EXPECT_EQ(readFile(checkpoint / "config.json"), readFile(path("config.json")));
  compileArtifact(checkpoint, path("stored.moeplan"));
  const std::vector<float> values = logits(openArtifact(path("stored.moeplan")).get());
  EXPECT_GT(deviationOf(values), 0.5);
  EXPECT_LT(deviationOf(values), 2);
}

TEST_F(SyntheticModelTest, ShardsHoldWhatOneFileHolds) {
  const std::filesystem::path single = writeCheckpoint("single"), again = writeCheckpoint("again"),
                              shards = writeCheckpoint("shards", 1, 1 << 20),
                              other = writeCheckpoint("other", 2);
  EXPECT_EQ(readFile(single / "model.safetensors"), readFile(again / "model.safetensors"));
  EXPECT_NE(readFile(single / "model.safetensors"), readFile(other / "model.safetensors"));
  auto open = [](const std::filesystem::path &checkpoint) {
    return llvm::cantFail(compiler::Checkpoint::open(checkpoint.string()));
  };
  const auto digest = [&](const std::filesystem::path &checkpoint) {
    return llvm::cantFail(compiler::digestOf(*open(checkpoint)));
  };
  EXPECT_EQ(digest(single), digest(shards));
  EXPECT_NE(digest(single), digest(other));
  const auto sharded = open(shards);
  EXPECT_GT(sharded->files().size(), 3u);
  for (const std::string &file : sharded->files())
    EXPECT_LT(std::filesystem::file_size(shards / file), (1u << 20) + 4096);
}

} // namespace
} // namespace moeplan::testing
