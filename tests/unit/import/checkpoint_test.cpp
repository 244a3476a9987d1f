#include "compiler/import/checkpoint_digest.h"
#include "tests/support/random_checkpoint.h"
#include "tests/support/reference_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>

namespace moeplan::compiler {
namespace {

const std::filesystem::path kTinyMixtral = MOEPLAN_SOURCE_DIR "/examples/tiny-mixtral";
constexpr const char *kIndexFile = "model.safetensors.index.json";

class CheckpointTest : public ::testing::Test {
protected:
  CheckpointTest() { options_.tokenizer = kTinyMixtral / "tokenizer.model"; }

  std::filesystem::path path(const std::string &file) const { return directory_.path() / file; }

  void write() { testing::writeRandomCheckpoint(directory_.path(), options_); }

  std::unique_ptr<Checkpoint> open() {
    auto checkpoint = Checkpoint::open(directory_.path().string());
    if (checkpoint)
      return std::move(*checkpoint);
    ADD_FAILURE() << llvm::toString(checkpoint.takeError());
    return nullptr;
  }

  std::string refusal() {
    auto checkpoint = Checkpoint::open(directory_.path().string());
    return checkpoint ? "accepted" : llvm::toString(checkpoint.takeError());
  }

  void replaceInFile(const std::string &file, const std::string &from, const std::string &to) {
    std::string text = testing::readFile(path(file));
    size_t position = text.find(from);
    ASSERT_NE(position, std::string::npos) << from;
    testing::writeFile(path(file), text.replace(position, from.size(), to));
  }

  /// Writes model.safetensors with zeros for weights, where `edit` may change names and shapes.
  void writeZeros(const std::function<void(std::map<std::string, std::vector<uint64_t>> &)> &edit) {
    std::map<std::string, std::vector<uint64_t>> shapes;
    for (const auto &[name, shape] : expectedTensors(options_.config))
      shapes[name].assign(shape.begin(), shape.end());
    edit(shapes);
    testing::SafetensorsWriter writer;
    for (const auto &[name, shape] : shapes) {
      uint64_t bytes = dtypeBytes(options_.dtype);
      for (uint64_t extent : shape)
        bytes *= extent;
      writer.add(name, dtypeName(options_.dtype), shape, std::string(bytes, '\0'));
    }
    writer.write(path("model.safetensors"));
  }

  /// The decoded values of every tensor.
  static std::map<std::string, std::vector<float>> values(const Checkpoint &checkpoint) {
    std::map<std::string, std::vector<float>> result;
    for (const auto &[name, tensor] : checkpoint.tensors())
      result[name] = testing::decodeTensor(checkpoint.bytes(tensor), tensor.dtype);
    return result;
  }

  testing::TemporaryDirectory directory_;
  testing::RandomCheckpointOptions options_;
};

TEST_F(CheckpointTest, OpensTheTinyCheckpoint) {
  auto checkpoint = Checkpoint::open(kTinyMixtral.string());
  ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
  const Checkpoint &tiny = **checkpoint;
  EXPECT_EQ(tiny.files().vec(), std::vector<std::string>{"model.safetensors"});
  EXPECT_EQ(tiny.tensors().size(), expectedTensors(tiny.config()).size());
  for (const auto &[name, shape] : expectedTensors(tiny.config())) {
    const TensorInfo &tensor = tiny.tensors().at(name);
    EXPECT_EQ(tensor.name, name);
    EXPECT_EQ(tensor.shape, shape);
    EXPECT_EQ(tensor.dtype, DType::BF16);
    EXPECT_EQ(tiny.bytes(tensor).size(), tensor.bytes);
  }
  std::string tokenizer = testing::readFile(kTinyMixtral / "tokenizer.model");
  EXPECT_EQ(std::string(tiny.tokenizer().begin(), tiny.tokenizer().end()), tokenizer);
}

TEST_F(CheckpointTest, ShardsGiveTheSameTensorsAndDigestAsOneFile) {
  write();
  auto single = open();
  ASSERT_TRUE(single);
  testing::TemporaryDirectory shardedDirectory;
  options_.shards = 3;
  testing::writeRandomCheckpoint(shardedDirectory.path(), options_);
  auto sharded = Checkpoint::open(shardedDirectory.path().string());
  ASSERT_TRUE(bool(sharded)) << llvm::toString(sharded.takeError());
  EXPECT_EQ((*sharded)->files().vec(),
            (std::vector<std::string>{"model-00001-of-00003.safetensors",
                                      "model-00002-of-00003.safetensors",
                                      "model-00003-of-00003.safetensors"}));
  EXPECT_EQ(values(**sharded), values(*single));
  EXPECT_EQ(llvm::cantFail(digestOf(**sharded)), llvm::cantFail(digestOf(*single)));
}

TEST_F(CheckpointTest, ReadsEveryDtypeToItsPrecision) {
  options_.dtype = DType::F32;
  write();
  auto exactCheckpoint = open();
  ASSERT_TRUE(exactCheckpoint);
  auto exact = values(*exactCheckpoint);
  // Half a unit in the last place: 11 significant bits in F16, 8 in BF16; F16 has its smallest
  // subnormal step at 2^-24.
  const std::pair<DType, double> cases[] = {{DType::F16, 0x1p-11}, {DType::BF16, 0x1p-8}};
  for (auto [dtype, relative] : cases) {
    options_.dtype = dtype;
    write();
    auto checkpoint = open();
    ASSERT_TRUE(checkpoint);
    for (const auto &[name, rounded] : values(*checkpoint)) {
      EXPECT_EQ(checkpoint->tensors().at(name).dtype, dtype);
      const auto &reference = exact.at(name);
      ASSERT_EQ(rounded.size(), reference.size());
      for (size_t i = 0; i < rounded.size(); ++i)
        ASSERT_NEAR(rounded[i], reference[i], std::abs(reference[i]) * relative + 0x1p-25) << name;
    }
  }
}

TEST_F(CheckpointTest, TiedEmbeddingsNeedNoOutputMatrixAndIgnoreOne) {
  options_.config.tieWordEmbeddings = true;
  write();
  EXPECT_EQ(refusal(), "accepted");
  writeZeros([&](auto &shapes) {
    shapes["lm_head.weight"] = {options_.config.vocabSize, options_.config.hiddenSize};
  });
  auto checkpoint = open();
  ASSERT_TRUE(checkpoint);
  EXPECT_FALSE(checkpoint->tensors().contains("lm_head.weight"));
}

TEST_F(CheckpointTest, IgnoresStoredRopeFrequencies) {
  write();
  const std::string name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  writeZeros([&](auto &shapes) { shapes[name] = {options_.config.headDim / 2}; });
  auto checkpoint = open();
  ASSERT_TRUE(checkpoint);
  EXPECT_FALSE(checkpoint->tensors().contains(name));
}

TEST_F(CheckpointTest, DigestFollowsWeightsConfigurationAndTokenizer) {
  write();
  const auto digest = [&] { return llvm::cantFail(digestOf(*open())); };
  const std::string first = digest();
  EXPECT_EQ(first.size(), 32u);
  EXPECT_EQ(first.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(digest(), first);

  options_.seed = 1;
  write();
  EXPECT_NE(digest(), first);
  options_.seed = 0;
  options_.config.ropeTheta = 10000;
  write();
  EXPECT_NE(digest(), first);
  options_.config = testing::unevenMixtralConfig();
  write();
  EXPECT_EQ(digest(), first);
  testing::writeFile(path("tokenizer.model"), "another");
  EXPECT_NE(digest(), first);
}

TEST_F(CheckpointTest, BytesStayTheSameAfterRelease) {
  write();
  auto checkpoint = open();
  ASSERT_TRUE(checkpoint);
  auto before = values(*checkpoint);
  for (const auto &[name, tensor] : checkpoint->tensors())
    checkpoint->release(tensor);
  EXPECT_EQ(values(*checkpoint), before);
}

TEST_F(CheckpointTest, NamesWhatIsMissingInTheDirectory) {
  std::string directory = directory_.path().string();
  EXPECT_EQ(refusal(), directory + "/config.json: No such file or directory");
  write();
  std::filesystem::remove(path("model.safetensors"));
  EXPECT_EQ(refusal(), directory + ": model.safetensors or model.safetensors.index.json expected, "
                                   "neither found");
}

TEST_F(CheckpointTest, ATokenizerIsOptional) {
  options_.tokenizer.clear();
  write();
  auto checkpoint = open();
  ASSERT_TRUE(checkpoint);
  EXPECT_TRUE(checkpoint->tokenizer().empty());
}

TEST_F(CheckpointTest, RefusesAnEmptyTokenizer) {
  write();
  testing::writeFile(path("tokenizer.model"), "");
  EXPECT_EQ(refusal(), "tokenizer.model: a SentencePiece model expected, file is empty");
}

TEST_F(CheckpointTest, RefusesATruncatedFile) {
  write();
  std::filesystem::resize_file(path("model.safetensors"),
                               std::filesystem::file_size(path("model.safetensors")) - 1);
  EXPECT_NE(refusal().find("data_offsets: an end of at most "), std::string::npos) << refusal();
  EXPECT_NE(refusal().find("(model.safetensors)"), std::string::npos) << refusal();
}

TEST_F(CheckpointTest, NamesTensorFileExpectedAndFoundOnWrongShape) {
  write();
  writeZeros([](auto &shapes) {
    shapes["model.layers.1.block_sparse_moe.experts.5.w1.weight"] = {320, 191};
  });
  EXPECT_EQ(refusal(), "model.layers.1.block_sparse_moe.experts.5.w1.weight: shape [320, 192] "
                       "expected, file has [320, 191] (model.safetensors)");
}

TEST_F(CheckpointTest, NamesTheShardOnWrongShape) {
  options_.shards = 2;
  write();
  options_.config.vocabSize += 1;
  testing::writeFile(path("config.json"), testing::mixtralConfigJson(options_.config));
  EXPECT_EQ(refusal(), "model.embed_tokens.weight: shape [513, 192] expected, "
                       "file has [512, 192] (model-00001-of-00002.safetensors)");
}

TEST_F(CheckpointTest, NamesAMissingTensor) {
  write();
  writeZeros([](auto &shapes) { shapes.erase("model.norm.weight"); });
  EXPECT_EQ(refusal(), "model.norm.weight: shape [192] expected, missing (model.safetensors)");
}

TEST_F(CheckpointTest, NamesATensorThatDoesNotBelong) {
  write();
  writeZeros([](auto &shapes) { shapes["model.layers.0.self_attn.q_proj.bias"] = {192}; });
  EXPECT_EQ(refusal(), "model.layers.0.self_attn.q_proj.bias: no such tensor expected by "
                       "config.json, file has shape [192] (model.safetensors)");
}

TEST_F(CheckpointTest, NamesATensorOfAnotherDtype) {
  write();
  replaceInFile("model.safetensors", "\"BF16\"", "\"I16\" ");
  EXPECT_EQ(refusal(), "model.embed_tokens.weight: dtype BF16, F16 or F32 expected, "
                       "file has \"I16\" (model.safetensors)");
}

TEST_F(CheckpointTest, RefusesAShardOutsideTheDirectory) {
  options_.shards = 2;
  for (const char *name : {"../model.safetensors", "/etc/passwd", "..", "", "sub/x.safetensors"}) {
    write();
    replaceInFile(kIndexFile, "model-00001-of-00002.safetensors", name);
    EXPECT_EQ(refusal(), "model.embed_tokens.weight: the name of a file in the same directory "
                         "expected, file has \"" +
                             std::string(name) + "\" (model.safetensors.index.json)");
  }
}

TEST_F(CheckpointTest, RefusesAnIndexWithoutAWeightMap) {
  options_.shards = 2;
  write();
  testing::writeFile(path(kIndexFile), "{}");
  EXPECT_EQ(refusal(), "model.safetensors.index.json: weight_map: an object expected, missing");
  testing::writeFile(path(kIndexFile), "{\"weight_map\": {\"a\": 1}}");
  EXPECT_EQ(refusal(), "a: the name of a file in the same directory expected, file has 1 "
                       "(model.safetensors.index.json)");
  testing::writeFile(path(kIndexFile), "{\"weight_map\"");
  EXPECT_EQ(refusal().find("model.safetensors.index.json: not JSON: parse error at line 1"), 0u)
      << refusal();
}

TEST_F(CheckpointTest, NamesAMissingShard) {
  options_.shards = 2;
  write();
  std::filesystem::remove(path("model-00002-of-00002.safetensors"));
  EXPECT_EQ(refusal(),
            path("model-00002-of-00002.safetensors").string() + ": No such file or directory");
}

TEST_F(CheckpointTest, RefusesAnIndexThatDisagreesWithTheShards) {
  options_.shards = 2;
  write();
  const std::string indexText = testing::readFile(path(kIndexFile));
  auto editIndex = [&](const std::function<void(nlohmann::json &)> &edit) {
    auto index = nlohmann::json::parse(indexText);
    edit(index["weight_map"]);
    testing::writeFile(path(kIndexFile), index.dump());
  };
  editIndex(
      [](auto &map) { map["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors"; });
  EXPECT_EQ(refusal(), "model.embed_tokens.weight: model-00002-of-00002.safetensors expected by "
                       "model.safetensors.index.json, found in model-00001-of-00002.safetensors");
  editIndex([](auto &map) { map.erase("model.embed_tokens.weight"); });
  EXPECT_EQ(refusal(), "model.embed_tokens.weight: no such tensor expected by "
                       "model.safetensors.index.json, found in model-00001-of-00002.safetensors");
  editIndex([](auto &map) { map["other"] = "model-00002-of-00002.safetensors"; });
  EXPECT_EQ(refusal(), "other: expected by model.safetensors.index.json, missing "
                       "(model-00002-of-00002.safetensors)");
}

} // namespace
} // namespace moeplan::compiler
