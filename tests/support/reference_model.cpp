#include "reference_model.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/APInt.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/Endian.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

using namespace llvm;
using namespace moeplan::compiler;

namespace moeplan::testing {

namespace {

void addInPlace(std::vector<float> &x, const std::vector<float> &y) {
  for (size_t i = 0; i < x.size(); ++i)
    x[i] += y[i];
}

float silu(float x) { return float(x / (1 + std::exp(-double(x)))); }

/// exp(x - max(x)) / sum, in place.
void softmax(std::vector<float> &x) {
  float largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (float &value : x)
    sum += value = std::exp(value - largest);
  for (float &value : x)
    value = float(value / sum);
}

} // namespace

float roundToBFloat16(float value) {
  if (std::isnan(value))
    return value;
  auto bits = llvm::bit_cast<uint32_t>(value);
  // Half a unit of the last place kept, less one bit where the kept part is even already.
  bits += 0x7fff + ((bits >> 16) & 1);
  return llvm::bit_cast<float>(bits & 0xffff0000u);
}

std::vector<float> decodeTensor(ArrayRef<uint8_t> bytes, DType dtype) {
  std::vector<float> values(bytes.size() / dtypeBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint8_t *element = bytes.data() + i * dtypeBytes(dtype);
    switch (dtype) {
    case DType::F32:
      values[i] = llvm::bit_cast<float>(support::endian::read32le(element));
      break;
    case DType::F16:
      values[i] = APFloat(APFloat::IEEEhalf(), APInt(16, support::endian::read16le(element)))
                      .convertToFloat();
      break;
    case DType::BF16:
      values[i] = llvm::bit_cast<float>(uint32_t(support::endian::read16le(element)) << 16);
      break;
    }
  }
  return values;
}

ReferenceModel::ReferenceModel(const Checkpoint &checkpoint, const Substitute &substitute)
    : config_(checkpoint.config()) {
  auto loadExact = [&](const std::string &name) {
    const TensorInfo &tensor = checkpoint.tensors().at(name + ".weight");
    return Weight{tensor.shape.back(), decodeTensor(checkpoint.bytes(tensor), tensor.dtype)};
  };
  auto loadRounded = [&](const std::string &name) {
    if (substitute)
      if (std::optional<std::vector<float>> values = substitute(name))
        return Weight{checkpoint.tensors().at(name + ".weight").shape.back(), std::move(*values)};
    Weight weight = loadExact(name);
    std::transform(weight.values.begin(), weight.values.end(), weight.values.begin(),
                   roundToBFloat16);
    return weight;
  };
  embedding_ = loadRounded("model.embed_tokens");
  finalNorm_ = loadExact("model.norm");
  if (!config_.tieWordEmbeddings)
    head_ = loadRounded("lm_head");
  for (uint32_t index = 0; index < config_.numLayers; ++index) {
    std::string prefix = "model.layers." + std::to_string(index) + ".";
    Layer &layer = layers_.emplace_back();
    layer.inputNorm = loadExact(prefix + "input_layernorm");
    layer.query = loadRounded(prefix + "self_attn.q_proj");
    layer.key = loadRounded(prefix + "self_attn.k_proj");
    layer.value = loadRounded(prefix + "self_attn.v_proj");
    layer.output = loadRounded(prefix + "self_attn.o_proj");
    layer.postAttentionNorm = loadExact(prefix + "post_attention_layernorm");
    layer.router = loadExact(prefix + "block_sparse_moe.gate");
    for (uint32_t expert = 0; expert < config_.numExperts; ++expert) {
      std::string block = prefix + "block_sparse_moe.experts." + std::to_string(expert) + ".";
      layer.experts.push_back(
          {loadRounded(block + "w1"), loadRounded(block + "w2"), loadRounded(block + "w3")});
    }
  }
}

/// y = matrix x
ReferenceModel::Vector ReferenceModel::multiply(const Weight &matrix, const Vector &x) {
  Vector result(matrix.rows());
  for (uint64_t r = 0; r < result.size(); ++r) {
    const float *row = matrix.row(r);
    double sum = 0;
    for (uint64_t c = 0; c < x.size(); ++c)
      sum += double(row[c]) * x[c];
    result[r] = float(sum);
  }
  return result;
}

/// y_i = w_i x_i / sqrt(mean(x^2) + rms_norm_eps)
ReferenceModel::Vector ReferenceModel::normalize(const Weight &norm, const Vector &x) const {
  double squares = 0;
  for (float value : x)
    squares += double(value) * value;
  auto scale = float(1 / std::sqrt(squares / double(x.size()) + config_.rmsNormEps));
  Vector result(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    result[i] = norm.values[i] * (x[i] * scale);
  return result;
}

/// RoPE on every head of one position, in the half-split form: element i of a head pairs with
/// element i + head_dim / 2. Angles are float32 products, as the original computes them.
void ReferenceModel::rotate(Vector &heads, uint64_t position) const {
  uint64_t half = config_.headDim / 2;
  for (uint64_t i = 0; i < half; ++i) {
    auto inverseFrequency =
        float(1 / std::pow(config_.ropeTheta, double(2 * i) / double(config_.headDim)));
    float angle = float(position) * inverseFrequency;
    float cosine = std::cos(angle), sine = std::sin(angle);
    for (uint64_t head = 0; head < heads.size(); head += config_.headDim) {
      float &low = heads[head + i], &high = heads[head + i + half];
      float rotatedLow = low * cosine - high * sine;
      high = high * cosine + low * sine;
      low = rotatedLow;
    }
  }
}

/// Grouped-query attention of every position to those before it. With a sliding window W, position
/// i sees the W positions that end with itself.
std::vector<ReferenceModel::Vector>
ReferenceModel::attend(const Layer &layer, const std::vector<Vector> &inputs) const {
  std::vector<Vector> queries, keys, values, outputs;
  for (uint64_t position = 0; position < inputs.size(); ++position) {
    rotate(queries.emplace_back(multiply(layer.query, inputs[position])), position);
    rotate(keys.emplace_back(multiply(layer.key, inputs[position])), position);
    values.push_back(multiply(layer.value, inputs[position]));
  }
  uint64_t headDim = config_.headDim;
  uint64_t queriesPerKey = config_.numAttentionHeads / config_.numKeyValueHeads;
  double scale = 1 / std::sqrt(double(headDim));
  for (uint64_t i = 0; i < inputs.size(); ++i) {
    uint64_t window = config_.slidingWindow ? config_.slidingWindow : inputs.size();
    uint64_t first = i + 1 > window ? i + 1 - window : 0;
    Vector heads(config_.numAttentionHeads * headDim);
    for (uint64_t head = 0; head < config_.numAttentionHeads; ++head) {
      uint64_t queryStart = head * headDim, keyStart = head / queriesPerKey * headDim;
      Vector weights;
      for (uint64_t j = first; j <= i; ++j) {
        double score = 0;
        for (uint64_t d = 0; d < headDim; ++d)
          score += double(queries[i][queryStart + d]) * keys[j][keyStart + d];
        weights.push_back(float(score * scale));
      }
      softmax(weights);
      for (uint64_t d = 0; d < headDim; ++d) {
        double sum = 0;
        for (uint64_t j = first; j <= i; ++j)
          sum += double(weights[j - first]) * values[j][keyStart + d];
        heads[queryStart + d] = float(sum);
      }
    }
    outputs.push_back(multiply(layer.output, heads));
  }
  return outputs;
}

/// sum over the top k of p_e / (sum of the k p's) * w2_e (silu(w1_e x) * w3_e x), p =
/// softmax(router x). Of equal probabilities the expert with the lower index comes first.
ReferenceModel::Vector ReferenceModel::mixExperts(const Layer &layer, const Vector &x) const {
  Vector probabilities = multiply(layer.router, x);
  softmax(probabilities);
  std::vector<uint32_t> ranking(config_.numExperts);
  std::iota(ranking.begin(), ranking.end(), 0);
  std::stable_sort(ranking.begin(), ranking.end(),
                   [&](uint32_t a, uint32_t b) { return probabilities[a] > probabilities[b]; });
  ranking.resize(config_.numExpertsPerToken);
  double chosen = 0;
  for (uint32_t expert : ranking)
    chosen += probabilities[expert];

  Vector result(x.size());
  for (uint32_t index : ranking) {
    const Expert &expert = layer.experts[index];
    Vector gate = multiply(expert.w1, x), up = multiply(expert.w3, x);
    for (size_t i = 0; i < gate.size(); ++i)
      gate[i] = silu(gate[i]) * up[i];
    Vector down = multiply(expert.w2, gate);
    auto weight = float(probabilities[index] / chosen);
    for (size_t i = 0; i < result.size(); ++i)
      result[i] += weight * down[i];
  }
  return result;
}

std::vector<float> ReferenceModel::logits(ArrayRef<int32_t> tokens) const {
  std::vector<Vector> states;
  for (int32_t token : tokens) {
    if (token < 0 || uint32_t(token) >= config_.vocabSize)
      throw std::out_of_range("token id " + std::to_string(token));
    const float *row = embedding_.row(token);
    states.emplace_back(row, row + embedding_.columns);
  }
  for (const Layer &layer : layers_) {
    std::vector<Vector> inputs(states.size());
    for (size_t i = 0; i < states.size(); ++i)
      inputs[i] = normalize(layer.inputNorm, states[i]);
    std::vector<Vector> attended = attend(layer, inputs);
    for (size_t i = 0; i < states.size(); ++i) {
      addInPlace(states[i], attended[i]);
      addInPlace(states[i], mixExperts(layer, normalize(layer.postAttentionNorm, states[i])));
    }
  }
  std::vector<float> result;
  for (const Vector &state : states) {
    Vector row =
        multiply(config_.tieWordEmbeddings ? embedding_ : head_, normalize(finalNorm_, state));
    result.insert(result.end(), row.begin(), row.end());
  }
  return result;
}

} // namespace moeplan::testing
