// What the compiler promises of the file it writes.
#include "tests/support/compile.h"
#include "tests/unit/model/random_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <set>
#include <sys/resource.h>

namespace moeplan::testing {
namespace {

constexpr const char *kTwoTiers = R"(
[[tier]]
name = "small"

[[tier]]
name = "mixed"
pin = [{experts = "*.experts.1.*", format = "f32"},
       {experts = "layers.0.experts.3.w2", format = "f32"}]
)";

/// Makes every write beyond `bytes` of a file fail with EFBIG.
class FileSizeLimit {
public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

class CompileTest : public ::testing::Test {
protected:
  struct Artifact {
    Artifact() {
      writeRandomCheckpoint(directory.path() / "here", smallestCheckpoint());
      writeFile(directory.path() / "policy.toml", kTwoTiers);
      compileArtifact(directory.path() / "here", directory.path() / "two.moeplan",
                      directory.path() / "policy.toml");
    }
    TemporaryDirectory directory;
  };

  std::filesystem::path path(const char *name) const { return directory.path() / name; }

  /// Writes a small checkpoint; `dtype` of every tensor.
  std::filesystem::path checkpoint(const char *name,
                                   compiler::DType dtype = compiler::DType::BF16) const {
    RandomCheckpointOptions options = smallestCheckpoint();
    options.dtype = dtype;
    writeRandomCheckpoint(path(name), options);
    return path(name);
  }

  std::filesystem::path policy(const char *name) const {
    writeFile(path(name), kTwoTiers);
    return path(name);
  }

  /// The small checkpoint compiled with two tiers, once.
  static std::filesystem::path twoTiers() {
    static const Artifact artifact;
    return artifact.directory.path() / "two.moeplan";
  }

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto &entry : std::filesystem::directory_iterator(directory.path()))
      names.insert(entry.path().filename());
    return names;
  }

  TemporaryDirectory directory;
};

TEST_F(CompileTest, TheSameInputsGiveTheSameBytesWhereverTheyLie) {
  compileArtifact(checkpoint("elsewhere"), path("b.moeplan"), policy("renamed.toml"));
  EXPECT_EQ(readFile(path("b.moeplan")), readFile(twoTiers()));

  // With all of a model's kernels, and over an older file.
  writeFile(path("c.moeplan"), "what was there");
  compileArtifact(unevenModel().checkpointPath(), path("c.moeplan"));
  EXPECT_EQ(readFile(path("c.moeplan")), readFile(unevenModel().artifactPath()));
  EXPECT_EQ(files(),
            (std::set<std::string>{"b.moeplan", "c.moeplan", "elsewhere", "renamed.toml"}));
}

TEST_F(CompileTest, ShardsGiveTheSameWeightsAsOneFile) {
  auto weights = [](const CompiledModel &model) {
    std::map<std::string, std::string> checksums;
    const auto description = nlohmann::json::parse(inspect(model.artifact.get()));
    for (const auto &segment : description.at("segments"))
      if (segment.at("kind") == "weight")
        checksums[segment.at("name")] = segment.at("checksum");
    return checksums;
  };
  for (const RandomModelVariant &variant : randomModelVariants())
    if (variant.name == "ShardedSlidingWindow5") {
      EXPECT_EQ(variant.options.shards, 3u);
      EXPECT_EQ(weights(compiledModel(variant)), weights(unevenModel()));
    }
}

TEST_F(CompileTest, TiersShareTheSegmentsThatTheyHaveInCommon) {
  const ArtifactHandle artifact = openArtifact(twoTiers());
  ASSERT_EQ(take(moeplan_artifact_verify(artifact.get(), nullptr, nullptr)).code, MOEPLAN_OK);

  std::map<std::string, std::vector<std::string>> plans;
  const auto description = nlohmann::json::parse(inspect(artifact.get()));
  for (const auto &segment : description.at("segments"))
    plans[segment.at("name")] = segment.at("plans");
  const std::vector<std::string> both{"small", "mixed"}, small{"small"}, mixed{"mixed"};
  EXPECT_EQ(plans["layers.0.experts.0.w1@bf16"], both);
  EXPECT_EQ(plans["layers.0.experts.1.w1@bf16"], small);
  EXPECT_EQ(plans["layers.0.experts.1.w1@f32"], mixed);
  EXPECT_EQ(plans["layers.0.experts.3.w1@bf16"], both);
  EXPECT_EQ(plans["layers.0.experts.3.w2@bf16"], small);
  EXPECT_EQ(plans["layers.0.experts.3.w2@f32"], mixed);
  EXPECT_EQ(plans["layers.1.experts.3.w2@bf16"], both);
  EXPECT_FALSE(plans.contains("layers.0.experts.0.w1@f32"));

  // A bf16 number is the same number in float32; only the activations beside it are bf16 as well.
  const size_t vocabSize = moeplan_artifact_model_info(artifact.get()).vocab_size;
  const std::vector<int32_t> tokens = randomTokens(70, vocabSize);
  const SessionHandle first = createSession(artifact.get());
  const SessionHandle other = createSession(artifact.get(), {.plan = "mixed"});
  EXPECT_STREQ(moeplan_session_plan_name(first.get()), "small");
  // (The padding of tiles makes so small a bf16 weight larger than a float32 one.)
  EXPECT_NE(moeplan_session_weight_bytes_per_token(other.get()),
            moeplan_session_weight_bytes_per_token(first.get()));
  const std::vector<float> logits = logitsOf(first.get(), tokens, vocabSize);
  const std::vector<float> others = logitsOf(other.get(), tokens, vocabSize);
  ASSERT_EQ(logits.size(), others.size());
  for (size_t i = 0; i < logits.size(); ++i)
    ASSERT_NEAR(logits[i], others[i], 0.02);
}

TEST_F(CompileTest, AFormatThatKeepsMoreOfAWeightChangesTheLogits) {
  compileArtifact(checkpoint("f32", compiler::DType::F32), path("two.moeplan"),
                  policy("policy.toml"));
  const ArtifactHandle artifact = openArtifact(path("two.moeplan"));
  const size_t vocabSize = moeplan_artifact_model_info(artifact.get()).vocab_size;
  const std::vector<int32_t> tokens = randomTokens(20, vocabSize);
  const SessionHandle small = createSession(artifact.get(), {.plan = "small"});
  const SessionHandle mixed = createSession(artifact.get(), {.plan = "mixed"});
  EXPECT_NE(logitsOf(small.get(), tokens, vocabSize), logitsOf(mixed.get(), tokens, vocabSize));
}

TEST_F(CompileTest, ACheckpointThatCannotBeReadKeepsTheExistingOutput) {
  const std::filesystem::path cut = checkpoint("checkpoint") / "model.safetensors";
  std::filesystem::resize_file(cut, std::filesystem::file_size(cut) - 1);
  writeFile(path("out.moeplan"), "what was there");
  const std::string error = compileError(path("checkpoint"), path("out.moeplan"));
  EXPECT_NE(error.find("model.safetensors"), std::string::npos) << error;
  EXPECT_EQ(readFile(path("out.moeplan")), "what was there");
  EXPECT_EQ(files(), (std::set<std::string>{"checkpoint", "out.moeplan"}));
}

TEST_F(CompileTest, ADiskThatFillsUpKeepsTheExistingOutput) {
  writeFile(path("out.moeplan"), "what was there");
  RandomCheckpointOptions options; // of 4 MB
  options.tokenizer = kTinyMixtral / "tokenizer.model";
  writeRandomCheckpoint(path("checkpoint"), options);
  std::string error;
  {
    FileSizeLimit limit(2000000); // room for the kernels' temporary files, not for the weights
    error = compileError(path("checkpoint"), path("out.moeplan"));
  }
  EXPECT_NE(error.find("out.moeplan: cannot reserve its room: File too large"), std::string::npos)
      << error;
  EXPECT_EQ(readFile(path("out.moeplan")), "what was there");
  EXPECT_EQ(files(), (std::set<std::string>{"checkpoint", "out.moeplan"}));
}

TEST_F(CompileTest, AnOutputThatCannotBeWrittenIsRefusedByName) {
  std::filesystem::create_directory(path("directory"));
  checkpoint("checkpoint");
  std::string error = compileError(path("checkpoint"), path("directory"));
  EXPECT_NE(error.find("directory: exists and is not a regular file"), std::string::npos) << error;
  error = compileError(path("checkpoint"), path("nowhere") / "out.moeplan");
  EXPECT_NE(error.find("nowhere/out.moeplan: cannot create: No such file or directory"),
            std::string::npos)
      << error;
  EXPECT_EQ(files(), (std::set<std::string>{"checkpoint", "directory"}));
}

} // namespace
} // namespace moeplan::testing
