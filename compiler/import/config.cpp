// `config.json`: what of it matters to execution, and the tensors that follow from it.
#include "compiler/import/checkpoint.h"

#include "compiler/import/json.h"
#include "compiler/import/messages.h"

#include "llvm/ADT/StringExtras.h"

#include <cmath>

using namespace llvm;

namespace moeplan::compiler {

namespace {

using Json = nlohmann::json;

// Defaults of Hugging Face's MixtralConfig for fields that its own files may leave out.
constexpr double kDefaultRopeTheta = 1e6;
constexpr double kDefaultRmsNormEps = 1e-5;
constexpr int32_t kDefaultBosTokenId = 1;
constexpr int32_t kDefaultEosTokenId = 2;

/// A required positive integer. The bounds are far above every known model and so low that no
/// product of extents and element sizes exceeds 64 bits.
struct SizeField {
  const char *key;
  uint32_t MixtralConfig::*member;
  uint32_t max;
};
constexpr uint32_t kMaxHeadDim = 1u << 16;
constexpr uint32_t kMaxPositions = 1u << 30;
constexpr SizeField kSizeFields[] = {
    {"vocab_size", &MixtralConfig::vocabSize, 1u << 24},
    {"hidden_size", &MixtralConfig::hiddenSize, 1u << 20},
    {"intermediate_size", &MixtralConfig::intermediateSize, 1u << 22},
    {"num_hidden_layers", &MixtralConfig::numLayers, 1u << 12},
    {"num_attention_heads", &MixtralConfig::numAttentionHeads, 1u << 12},
    {"num_key_value_heads", &MixtralConfig::numKeyValueHeads, 1u << 12},
    {"num_local_experts", &MixtralConfig::numExperts, 1u << 12},
    {"num_experts_per_tok", &MixtralConfig::numExpertsPerToken, 1u << 12},
    {"max_position_embeddings", &MixtralConfig::maxPositionEmbeddings, kMaxPositions},
};
/// All layers together: bounds the memory that a hostile configuration can ask for.
constexpr uint64_t kMaxTotalExperts = 1u << 18;

/// Fields that change the model in ways this compiler does not know, unless null.
constexpr const char *kUnsupportedFields[] = {"rope_scaling", "quantization_config"};

/// Reads single fields of the top-level object. null counts as absent.
class ConfigReader {
public:
  ConfigReader(const Json &object, StringRef origin) : object_(object), origin_(origin) {}

  const Json *find(const char *key) const { return find(object_, key); }
  static const Json *find(const Json &object, const char *key) {
    auto member = object.find(key);
    return member == object.end() || member->is_null() ? nullptr : &*member;
  }

  Error fail(const Twine &message) const { return importError(origin_ + ": " + message); }

  Error readSize(const char *key, uint32_t max, uint32_t &result) const {
    const Json *value = find(key);
    if (!value || !value->is_number_unsigned() || value->get<uint64_t>() == 0 ||
        value->get<uint64_t>() > max)
      return fail(Twine(key) + ": an integer from 1 to " + Twine(max) + " expected, " +
                  describe(value));
    result = value->get<uint32_t>();
    return Error::success();
  }

  /// Leaves `result` as it is where the field is absent.
  Error readOptionalSize(const char *key, uint32_t max, uint32_t &result) const {
    return find(key) ? readSize(key, max, result) : Error::success();
  }

  /// A positive number below `bound` from `value`, which may be absent.
  Error readNumber(const char *key, const Json *value, double bound, double &result) const {
    if (!value)
      return Error::success();
    if (!value->is_number() || !(value->get<double>() > 0 && value->get<double>() < bound))
      return fail(Twine(key) + ": a positive number below " + Json(bound).dump() + " expected, " +
                  describe(value));
    result = value->get<double>();
    return Error::success();
  }

  Error readTokenId(const char *key, const Json &value, uint32_t vocabSize, int32_t &result) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= vocabSize)
      return fail(Twine(key) + ": token ids below " + Twine(vocabSize) + " expected, " +
                  describe(&value));
    result = value.get<int32_t>();
    return Error::success();
  }

private:
  const Json &object_;
  StringRef origin_;
};

Error checkModelIsSupported(const ConfigReader &reader) {
  const Json *modelType = reader.find("model_type");
  if (!modelType || *modelType != "mixtral")
    return reader.fail("model_type: \"mixtral\" expected, " + describe(modelType));
  const Json *activation = reader.find("hidden_act");
  if (activation && *activation != "silu")
    return reader.fail("hidden_act: \"silu\" expected, " + describe(activation));
  for (const char *key : kUnsupportedFields)
    if (const Json *value = reader.find(key))
      return reader.fail(Twine(key) + ": not supported, null expected, " + describe(value));
  return Error::success();
}

/// rope_theta stands at the top level, or in rope_parameters since transformers 5.
Error readRope(const ConfigReader &reader, double &ropeTheta) {
  constexpr double kBound = 1e15;
  ropeTheta = kDefaultRopeTheta;
  if (Error error = reader.readNumber("rope_theta", reader.find("rope_theta"), kBound, ropeTheta))
    return error;
  const Json *parameters = reader.find("rope_parameters");
  if (!parameters)
    return Error::success();
  if (!parameters->is_object())
    return reader.fail("rope_parameters: an object expected, " + describe(parameters));
  const Json *type = ConfigReader::find(*parameters, "rope_type");
  if (type && *type != "default")
    return reader.fail("rope_parameters.rope_type: \"default\" expected, " + describe(type));
  return reader.readNumber("rope_parameters.rope_theta",
                           ConfigReader::find(*parameters, "rope_theta"), kBound, ropeTheta);
}

Error readHeadDim(const ConfigReader &reader, MixtralConfig &config) {
  if (reader.find("head_dim")) {
    if (Error error = reader.readSize("head_dim", kMaxHeadDim, config.headDim))
      return error;
  } else {
    if (config.hiddenSize % config.numAttentionHeads != 0)
      return reader.fail("hidden_size: a multiple of num_attention_heads (" +
                         Twine(config.numAttentionHeads) + ") expected where head_dim is absent, " +
                         "file has " + Twine(config.hiddenSize));
    config.headDim = config.hiddenSize / config.numAttentionHeads;
    if (config.headDim > kMaxHeadDim)
      return reader.fail("hidden_size / num_attention_heads: at most " + Twine(kMaxHeadDim) +
                         " expected, file has " + Twine(config.headDim));
  }
  if (config.headDim % 2 != 0) // RoPE rotates pairs
    return reader.fail("head_dim: an even number expected, file has " + Twine(config.headDim));
  return Error::success();
}

Error checkRelations(const ConfigReader &reader, const MixtralConfig &config) {
  if (config.numAttentionHeads % config.numKeyValueHeads != 0)
    return reader.fail("num_attention_heads: a multiple of num_key_value_heads (" +
                       Twine(config.numKeyValueHeads) + ") expected, file has " +
                       Twine(config.numAttentionHeads));
  if (config.numExpertsPerToken > config.numExperts)
    return reader.fail("num_experts_per_tok: at most num_local_experts (" +
                       Twine(config.numExperts) + ") expected, file has " +
                       Twine(config.numExpertsPerToken));
  uint64_t totalExperts = uint64_t(config.numLayers) * config.numExperts;
  if (totalExperts > kMaxTotalExperts)
    return reader.fail("num_hidden_layers * num_local_experts: at most " + Twine(kMaxTotalExperts) +
                       " expected, file has " + Twine(totalExperts));
  return Error::success();
}

Error readTokenIds(const ConfigReader &reader, const Json &object, MixtralConfig &config) {
  config.bosTokenId = -1;
  if (const Json *bos = reader.find("bos_token_id")) {
    if (Error error = reader.readTokenId("bos_token_id", *bos, config.vocabSize, config.bosTokenId))
      return error;
  } else if (!object.contains("bos_token_id")) {
    config.bosTokenId = kDefaultBosTokenId;
  }
  if (const Json *eos = reader.find("eos_token_id")) {
    const Json list = eos->is_array() ? *eos : Json::array({*eos});
    for (const Json &item : list)
      if (Error error = reader.readTokenId("eos_token_id", item, config.vocabSize,
                                           config.eosTokenIds.emplace_back()))
        return error;
  } else if (!object.contains("eos_token_id")) {
    config.eosTokenIds = {kDefaultEosTokenId};
  }
  return Error::success();
}

} // namespace

Expected<MixtralConfig> parseMixtralConfig(StringRef json, StringRef origin) {
  Expected<Json> object = parseJson(json, origin);
  if (!object)
    return object.takeError();
  if (!object->is_object())
    return importError(origin + ": a JSON object expected, " + describe(&*object));
  ConfigReader reader(*object, origin);
  if (Error error = checkModelIsSupported(reader))
    return error;

  MixtralConfig config;
  for (const SizeField &field : kSizeFields)
    if (Error error = reader.readSize(field.key, field.max, config.*field.member))
      return error;
  if (Error error = readHeadDim(reader, config))
    return error;
  if (Error error = checkRelations(reader, config))
    return error;
  if (Error error = reader.readOptionalSize("sliding_window", kMaxPositions, config.slidingWindow))
    return error;
  if (Error error = readRope(reader, config.ropeTheta))
    return error;
  config.rmsNormEps = kDefaultRmsNormEps;
  if (Error error =
          reader.readNumber("rms_norm_eps", reader.find("rms_norm_eps"), 1, config.rmsNormEps))
    return error;
  if (const Json *tied = reader.find("tie_word_embeddings")) {
    if (!tied->is_boolean())
      return reader.fail("tie_word_embeddings: true or false expected, " + describe(tied));
    config.tieWordEmbeddings = tied->get<bool>();
  }
  if (Error error = readTokenIds(reader, *object, config))
    return error;
  return config;
}

std::vector<std::pair<std::string, SmallVector<uint64_t, 2>>>
expectedTensors(const MixtralConfig &config) {
  uint64_t hidden = config.hiddenSize, intermediate = config.intermediateSize;
  uint64_t queries = uint64_t(config.numAttentionHeads) * config.headDim;
  uint64_t keys = uint64_t(config.numKeyValueHeads) * config.headDim;
  std::vector<std::pair<std::string, SmallVector<uint64_t, 2>>> tensors;
  auto add = [&](const Twine &name, std::initializer_list<uint64_t> shape) {
    tensors.emplace_back((name + ".weight").str(), shape);
  };
  add("model.embed_tokens", {config.vocabSize, hidden});
  for (uint32_t layer = 0; layer < config.numLayers; ++layer) {
    std::string prefix = "model.layers." + utostr(layer);
    add(prefix + ".input_layernorm", {hidden});
    add(prefix + ".self_attn.q_proj", {queries, hidden});
    add(prefix + ".self_attn.k_proj", {keys, hidden});
    add(prefix + ".self_attn.v_proj", {keys, hidden});
    add(prefix + ".self_attn.o_proj", {hidden, queries});
    add(prefix + ".post_attention_layernorm", {hidden});
    add(prefix + ".block_sparse_moe.gate", {config.numExperts, hidden});
    for (uint32_t expert = 0; expert < config.numExperts; ++expert) {
      std::string block = prefix + ".block_sparse_moe.experts." + utostr(expert);
      add(block + ".w1", {intermediate, hidden});
      add(block + ".w2", {hidden, intermediate});
      add(block + ".w3", {intermediate, hidden});
    }
  }
  add("model.norm", {hidden});
  if (!config.tieWordEmbeddings)
    add("lm_head", {config.vocabSize, hidden});
  return tensors;
}

} // namespace moeplan::compiler
