#include "random_checkpoint.h"

#include "reference_model.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/APInt.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/Endian.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>

using namespace llvm;
using namespace moeplan::compiler;

namespace moeplan::testing {

namespace {

using Json = nlohmann::ordered_json;

/// Standard deviation of router logits for an input of unit variance.
constexpr double kRouterSpread = 4;
/// Standard deviation of norm weights around 1.
constexpr double kNormSpread = 0.1;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). Own
/// arithmetic throughout: the distributions of <random> differ between libraries.
class Random {
public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  /// Nearly normal, mean 0, variance 1: the sum of four uniform numbers of 16 bits.
  double normal() {
    constexpr double kMeanOfSum = 4 * 65535 / 2.0;
    const double deviationOfSum = 65536 * std::sqrt(4 / 12.0);
    uint64_t bits = next();
    uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    return (double(sum) - kMeanOfSum) / deviationOfSum;
  }

private:
  uint64_t state_;
};

/// FNV-1a, 64 bits.
uint64_t hashName(StringRef name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : name)
    hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

std::vector<float> randomTensor(StringRef name, ArrayRef<uint64_t> shape, uint64_t seed) {
  double mean = 0, deviation = 1;
  if (shape.size() == 1) {
    mean = 1;
    deviation = kNormSpread;
  } else if (!name.contains("embed_tokens")) {
    deviation = 1 / std::sqrt(double(shape.back()));
  }
  if (name.contains("block_sparse_moe.gate"))
    deviation *= kRouterSpread;
  uint64_t elements = 1;
  for (uint64_t extent : shape)
    elements *= extent;
  Random random(Random(seed).next() ^ hashName(name));
  std::vector<float> values(elements);
  for (float &value : values)
    value = float(mean + deviation * random.normal());
  return values;
}

uint64_t encodeElement(float value, DType dtype) {
  switch (dtype) {
  case DType::F32:
    return llvm::bit_cast<uint32_t>(value);
  case DType::BF16:
    return llvm::bit_cast<uint32_t>(roundToBFloat16(value)) >> 16;
  case DType::F16:
    break;
  }
  bool inexact = false;
  APFloat number(value);
  number.convert(APFloat::IEEEhalf(), APFloat::rmNearestTiesToEven, &inexact);
  return number.bitcastToAPInt().getZExtValue();
}

std::string shardName(uint32_t shard, uint32_t shards) {
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05u-of-%05u.safetensors", shard + 1, shards);
  return name;
}

} // namespace

std::string encodeTensor(ArrayRef<float> values, DType dtype) {
  std::string bytes;
  bytes.reserve(values.size() * dtypeBytes(dtype));
  for (float value : values) {
    uint64_t bits = encodeElement(value, dtype);
    for (uint64_t i = 0; i < dtypeBytes(dtype); ++i)
      bytes += char(bits >> (8 * i));
  }
  return bytes;
}

void SafetensorsWriter::add(StringRef name, StringRef dtype, ArrayRef<uint64_t> shape,
                            StringRef bytes) {
  Json entry;
  entry["dtype"] = dtype.str();
  entry["shape"] = std::vector<uint64_t>(shape.begin(), shape.end());
  entry["data_offsets"] = {data_.size(), data_.size() + bytes.size()};
  entries_.push_back(Json(name.str()).dump() + ": " + entry.dump());
  data_.append(bytes.begin(), bytes.end());
}

std::string SafetensorsWriter::header() const { return "{" + join(entries_, ", ") + "}"; }

void SafetensorsWriter::write(const std::filesystem::path &path) const {
  writeSafetensors(path, header(), data_);
}

std::string joinSafetensors(StringRef header, StringRef data) {
  std::string bytes(sizeof(uint64_t), '\0');
  support::endian::write64le(bytes.data(), header.size());
  bytes += header;
  bytes += data;
  return bytes;
}

void writeSafetensors(const std::filesystem::path &path, StringRef header, StringRef data) {
  writeFile(path, joinSafetensors(header, data));
}

MixtralConfig unevenMixtralConfig() {
  MixtralConfig config;
  config.vocabSize = 512;
  config.hiddenSize = 192;
  config.intermediateSize = 320;
  config.numLayers = 2;
  config.numAttentionHeads = 6;
  config.numKeyValueHeads = 3;
  config.headDim = 32;
  config.numExperts = 6;
  config.numExpertsPerToken = 2;
  config.rmsNormEps = 1e-5;
  config.ropeTheta = 1e6;
  config.maxPositionEmbeddings = 512;
  config.bosTokenId = 1;
  config.eosTokenIds = {2};
  return config;
}

std::string mixtralConfigJson(const MixtralConfig &config) {
  Json json;
  json["architectures"] = {"MixtralForCausalLM"};
  json["model_type"] = "mixtral";
  json["vocab_size"] = config.vocabSize;
  json["hidden_size"] = config.hiddenSize;
  json["intermediate_size"] = config.intermediateSize;
  json["num_hidden_layers"] = config.numLayers;
  json["num_attention_heads"] = config.numAttentionHeads;
  json["num_key_value_heads"] = config.numKeyValueHeads;
  json["head_dim"] = config.headDim;
  json["num_local_experts"] = config.numExperts;
  json["num_experts_per_tok"] = config.numExpertsPerToken;
  json["rms_norm_eps"] = config.rmsNormEps;
  json["rope_theta"] = config.ropeTheta;
  json["sliding_window"] = config.slidingWindow ? Json(config.slidingWindow) : Json();
  json["max_position_embeddings"] = config.maxPositionEmbeddings;
  json["hidden_act"] = "silu";
  json["tie_word_embeddings"] = config.tieWordEmbeddings;
  json["bos_token_id"] = config.bosTokenId < 0 ? Json() : Json(config.bosTokenId);
  if (config.eosTokenIds.size() == 1)
    json["eos_token_id"] = config.eosTokenIds.front();
  else
    json["eos_token_id"] = config.eosTokenIds.empty() ? Json() : Json(config.eosTokenIds);
  return json.dump(2) + "\n";
}

void writeRandomCheckpoint(const std::filesystem::path &directory,
                           const RandomCheckpointOptions &options) {
  std::filesystem::create_directories(directory);
  writeFile(directory / "config.json", mixtralConfigJson(options.config));
  if (!options.tokenizer.empty())
    std::filesystem::copy_file(options.tokenizer, directory / "tokenizer.model",
                               std::filesystem::copy_options::overwrite_existing);

  // Round robin, so that every shard has a part of every layer.
  std::vector<SafetensorsWriter> shards(options.shards);
  Json weightMap = Json::object();
  uint64_t totalBytes = 0;
  uint32_t next = 0;
  for (const auto &[name, shape] : expectedTensors(options.config)) {
    std::string bytes = encodeTensor(randomTensor(name, shape, options.seed), options.dtype);
    uint32_t shard = next++ % options.shards;
    shards[shard].add(name, dtypeName(options.dtype), shape, bytes);
    weightMap[name] = shardName(shard, options.shards);
    totalBytes += bytes.size();
  }
  if (options.shards == 1) {
    shards.front().write(directory / "model.safetensors");
    return;
  }
  for (uint32_t shard = 0; shard < options.shards; ++shard)
    shards[shard].write(directory / shardName(shard, options.shards));
  Json index;
  index["metadata"]["total_size"] = totalBytes;
  index["weight_map"] = std::move(weightMap);
  writeFile(directory / "model.safetensors.index.json", index.dump(2) + "\n");
}

} // namespace moeplan::testing
