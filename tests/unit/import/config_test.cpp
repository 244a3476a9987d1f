#include "compiler/import/checkpoint.h"
#include "tests/support/random_checkpoint.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>

namespace moeplan::compiler {
namespace {

using nlohmann::json;

/// A good configuration, changed by `edit`, as text.
std::string edited(const std::function<void(json &)> &edit) {
  json config = json::parse(testing::mixtralConfigJson(testing::unevenMixtralConfig()));
  edit(config);
  return config.dump();
}

MixtralConfig parsed(const std::string &text) {
  auto config = parseMixtralConfig(text, "config.json");
  EXPECT_TRUE(bool(config));
  if (config)
    return *config;
  ADD_FAILURE() << llvm::toString(config.takeError());
  return {};
}

std::string refusal(const std::string &text) {
  auto config = parseMixtralConfig(text, "config.json");
  return config ? "accepted" : llvm::toString(config.takeError());
}

std::string refusalOf(const char *key, const json &value) {
  return refusal(edited([&](json &config) { config[key] = value; }));
}

std::string refusalWithout(const char *key) {
  return refusal(edited([&](json &config) { config.erase(key); }));
}

TEST(ConfigTest, ReadsTheTinyCheckpoint) {
  MixtralConfig config =
      parsed(testing::readFile(MOEPLAN_SOURCE_DIR "/examples/tiny-mixtral/config.json"));
  EXPECT_EQ(config.vocabSize, 2048u);
  EXPECT_EQ(config.hiddenSize, 128u);
  EXPECT_EQ(config.intermediateSize, 256u);
  EXPECT_EQ(config.numLayers, 4u);
  EXPECT_EQ(config.numAttentionHeads, 4u);
  EXPECT_EQ(config.numKeyValueHeads, 2u);
  EXPECT_EQ(config.headDim, 32u);
  EXPECT_EQ(config.numExperts, 8u);
  EXPECT_EQ(config.numExpertsPerToken, 2u);
  EXPECT_EQ(config.rmsNormEps, 1e-5);
  EXPECT_EQ(config.ropeTheta, 1e6);
  EXPECT_EQ(config.slidingWindow, 0u);
  EXPECT_EQ(config.maxPositionEmbeddings, 2048u);
  EXPECT_FALSE(config.tieWordEmbeddings);
  EXPECT_EQ(config.bosTokenId, 1);
  EXPECT_EQ(config.eosTokenIds, std::vector<int32_t>{2});
}

TEST(ConfigTest, UsesTheDefaultsOfMixtralConfigForAbsentFields) {
  MixtralConfig config = parsed(edited([](json &config) {
    for (const char *key : {"rms_norm_eps", "rope_theta", "sliding_window", "tie_word_embeddings",
                            "head_dim", "hidden_act", "bos_token_id", "eos_token_id"})
      config.erase(key);
  }));
  EXPECT_EQ(config.rmsNormEps, 1e-5);
  EXPECT_EQ(config.ropeTheta, 1e6);
  EXPECT_EQ(config.slidingWindow, 0u);
  EXPECT_FALSE(config.tieWordEmbeddings);
  EXPECT_EQ(config.headDim, config.hiddenSize / config.numAttentionHeads);
  EXPECT_EQ(config.bosTokenId, 1);
  EXPECT_EQ(config.eosTokenIds, std::vector<int32_t>{2});
}

TEST(ConfigTest, TakesNullForNoneWhereAFieldIsOptional) {
  MixtralConfig config = parsed(edited([](json &config) {
    for (const char *key : {"head_dim", "sliding_window", "rope_scaling", "quantization_config",
                            "bos_token_id", "eos_token_id"})
      config[key] = nullptr;
  }));
  EXPECT_EQ(config.headDim, config.hiddenSize / config.numAttentionHeads);
  EXPECT_EQ(config.slidingWindow, 0u);
  EXPECT_EQ(config.bosTokenId, -1);
  EXPECT_TRUE(config.eosTokenIds.empty());
}

TEST(ConfigTest, HeadDimNeedNotFollowFromTheHiddenSize) {
  EXPECT_EQ(parsed(edited([](json &config) { config["head_dim"] = 48; })).headDim, 48u);
}

TEST(ConfigTest, ReadsSlidingWindowTiedEmbeddingsAndSeveralEosTokens) {
  MixtralConfig config = parsed(edited([](json &config) {
    config["sliding_window"] = 64;
    config["tie_word_embeddings"] = true;
    config["eos_token_id"] = {2, 7};
  }));
  EXPECT_EQ(config.slidingWindow, 64u);
  EXPECT_TRUE(config.tieWordEmbeddings);
  EXPECT_EQ(config.eosTokenIds, (std::vector<int32_t>{2, 7}));
}

TEST(ConfigTest, ReadsRopeThetaFromRopeParameters) {
  MixtralConfig config = parsed(edited([](json &config) {
    config.erase("rope_theta");
    config["rope_parameters"] = {{"rope_theta", 10000}, {"rope_type", "default"}};
  }));
  EXPECT_EQ(config.ropeTheta, 10000);
}

TEST(ConfigTest, RefusesRopeThatIsNotTheDefaultKind) {
  EXPECT_EQ(refusalOf("rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "yarn"}}),
            "config.json: rope_parameters.rope_type: \"default\" expected, file has \"yarn\"");
  EXPECT_EQ(refusalOf("rope_parameters", 3),
            "config.json: rope_parameters: an object expected, file has 3");
  EXPECT_EQ(refusalOf("rope_scaling", {{"type", "linear"}}),
            "config.json: rope_scaling: not supported, null expected, "
            "file has {\"type\":\"linear\"}");
}

TEST(ConfigTest, RefusesQuantizedCheckpoints) {
  EXPECT_EQ(refusalOf("quantization_config", {{"quant_method", "gptq"}}),
            "config.json: quantization_config: not supported, null expected, "
            "file has {\"quant_method\":\"gptq\"}");
}

TEST(ConfigTest, StatesThePositionOfASyntaxError) {
  EXPECT_EQ(refusal("{\"model_type\": \n }")
                .find("config.json: not JSON: parse error at line 2, column 2: syntax error"),
            0u)
      << refusal("{\"model_type\": \n }");
  EXPECT_EQ(refusal("").find("config.json: not JSON: parse error at line 1, column 1"), 0u);
}

TEST(ConfigTest, RefusesADuplicateKey) {
  EXPECT_EQ(refusal("{\"model_type\": 1, \"model_type\": 2}"),
            "config.json: duplicate key \"model_type\" before byte 30");
}

TEST(ConfigTest, RefusesDeepNestingWithoutExhaustingTheStack) {
  EXPECT_NE(refusal(std::string(1000000, '[')).find("more than 64 levels of nesting"),
            std::string::npos);
}

TEST(ConfigTest, RefusesJsonThatIsNotAnObject) {
  EXPECT_EQ(refusal("[1]"), "config.json: a JSON object expected, file has [1]");
}

TEST(ConfigTest, RefusesAnotherModelType) {
  EXPECT_EQ(refusalOf("model_type", "llama"),
            "config.json: model_type: \"mixtral\" expected, file has \"llama\"");
  EXPECT_EQ(refusalWithout("model_type"), "config.json: model_type: \"mixtral\" expected, missing");
}

TEST(ConfigTest, RefusesAnotherActivation) {
  EXPECT_EQ(refusalOf("hidden_act", "gelu"),
            "config.json: hidden_act: \"silu\" expected, file has \"gelu\"");
}

TEST(ConfigTest, RefusesEverySizeThatIsMissingOrNotAPositiveIntegerInBounds) {
  for (const char *key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "num_key_value_heads", "num_local_experts",
                          "num_experts_per_tok", "max_position_embeddings"}) {
    std::string start = std::string("config.json: ") + key + ": an integer from 1 to ";
    auto expectRefusal = [&](const std::string &message, const std::string &found) {
      EXPECT_EQ(message.find(start), 0u) << message;
      EXPECT_NE(message.find(" expected, " + found), std::string::npos) << message;
    };
    expectRefusal(refusalWithout(key), "missing");
    expectRefusal(refusalOf(key, nullptr), "missing");
    expectRefusal(refusalOf(key, 0), "file has 0");
    expectRefusal(refusalOf(key, -4), "file has -4");
    expectRefusal(refusalOf(key, 2.5), "file has 2.5");
    expectRefusal(refusalOf(key, "8"), "file has \"8\"");
    expectRefusal(refusalOf(key, 1ull << 40), "file has 1099511627776");
    expectRefusal(refusalOf(key, UINT64_MAX), "file has 18446744073709551615");
  }
}

TEST(ConfigTest, RefusesMoreExpertsThanAModelCanHave) {
  EXPECT_EQ(refusal(edited([](json &config) {
              config["num_hidden_layers"] = 4096;
              config["num_local_experts"] = 4096;
            })),
            "config.json: num_hidden_layers * num_local_experts: at most 262144 expected, "
            "file has 16777216");
}

TEST(ConfigTest, RefusesSizesThatContradictEachOther) {
  EXPECT_EQ(refusalOf("num_experts_per_tok", 7),
            "config.json: num_experts_per_tok: at most num_local_experts (6) expected, file has 7");
  EXPECT_EQ(refusalOf("num_key_value_heads", 4),
            "config.json: num_attention_heads: a multiple of num_key_value_heads (4) expected, "
            "file has 6");
  EXPECT_EQ(refusalOf("head_dim", 33),
            "config.json: head_dim: an even number expected, file has 33");
  EXPECT_EQ(refusal(edited([](json &config) {
              config.erase("head_dim");
              config["hidden_size"] = 100;
            })),
            "config.json: hidden_size: a multiple of num_attention_heads (6) expected where "
            "head_dim is absent, file has 100");
}

TEST(ConfigTest, RefusesNumbersOutsideTheirRange) {
  EXPECT_EQ(refusalOf("rope_theta", 0).find("config.json: rope_theta: a positive number below"),
            0u);
  EXPECT_EQ(refusalOf("rope_theta", "big").find("config.json: rope_theta: a positive number"), 0u);
  EXPECT_EQ(refusalOf("rms_norm_eps", -1e-5),
            "config.json: rms_norm_eps: a positive number below 1.0 expected, file has -1e-05");
  EXPECT_EQ(refusalOf("sliding_window", 0).find("config.json: sliding_window: an integer from 1"),
            0u);
  EXPECT_EQ(refusalOf("tie_word_embeddings", 1),
            "config.json: tie_word_embeddings: true or false expected, file has 1");
}

TEST(ConfigTest, RefusesTokenIdsOutsideTheVocabulary) {
  EXPECT_EQ(refusalOf("bos_token_id", 512),
            "config.json: bos_token_id: token ids below 512 expected, file has 512");
  EXPECT_EQ(refusalOf("eos_token_id", json::array({2, -3})),
            "config.json: eos_token_id: token ids below 512 expected, file has -3");
}

TEST(ConfigTest, MessagesAreOneShortLine) {
  std::string message = refusalOf("model_type", "a\nb" + std::string(5000, 'x'));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 200u);
}

TEST(ExpectedTensorsTest, NamesEveryTensorOnceWithItsShape) {
  MixtralConfig config = testing::unevenMixtralConfig();
  config.headDim = 48; // so that queries are wider than the hidden state
  std::map<std::string, llvm::SmallVector<uint64_t, 2>> shapes;
  for (const auto &[name, shape] : expectedTensors(config))
    EXPECT_TRUE(shapes.emplace(name, shape).second) << name;
  using Shape = llvm::SmallVector<uint64_t, 2>;
  EXPECT_EQ(shapes.size(), 3 + config.numLayers * (7 + 3 * config.numExperts));
  EXPECT_EQ(shapes["model.embed_tokens.weight"], (Shape{512, 192}));
  EXPECT_EQ(shapes["lm_head.weight"], (Shape{512, 192}));
  EXPECT_EQ(shapes["model.norm.weight"], (Shape{192}));
  EXPECT_EQ(shapes["model.layers.1.input_layernorm.weight"], (Shape{192}));
  EXPECT_EQ(shapes["model.layers.1.post_attention_layernorm.weight"], (Shape{192}));
  EXPECT_EQ(shapes["model.layers.1.self_attn.q_proj.weight"], (Shape{288, 192}));
  EXPECT_EQ(shapes["model.layers.1.self_attn.k_proj.weight"], (Shape{144, 192}));
  EXPECT_EQ(shapes["model.layers.1.self_attn.v_proj.weight"], (Shape{144, 192}));
  EXPECT_EQ(shapes["model.layers.1.self_attn.o_proj.weight"], (Shape{192, 288}));
  EXPECT_EQ(shapes["model.layers.1.block_sparse_moe.gate.weight"], (Shape{6, 192}));
  EXPECT_EQ(shapes["model.layers.1.block_sparse_moe.experts.5.w1.weight"], (Shape{320, 192}));
  EXPECT_EQ(shapes["model.layers.1.block_sparse_moe.experts.5.w2.weight"], (Shape{192, 320}));
  EXPECT_EQ(shapes["model.layers.1.block_sparse_moe.experts.5.w3.weight"], (Shape{320, 192}));
}

TEST(ExpectedTensorsTest, TiedEmbeddingsNeedNoOutputMatrix) {
  MixtralConfig config = testing::unevenMixtralConfig();
  config.tieWordEmbeddings = true;
  for (const auto &[name, shape] : expectedTensors(config))
    EXPECT_NE(name, "lm_head.weight");
}

} // namespace
} // namespace moeplan::compiler
