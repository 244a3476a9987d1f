// Mixtral as its definition reads: the oracle that compiled programs are compared with.
#pragma once

#include "compiler/import/checkpoint.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moeplan::testing {

/// `value` rounded to the nearest bfloat16, ties to even. NaN stays NaN.
float roundToBFloat16(float value);

/// The values of a tensor's bytes, exactly.
std::vector<float> decodeTensor(llvm::ArrayRef<uint8_t> bytes, compiler::DType dtype);

/// The forward pass of Hugging Face's MixtralForCausalLM, over a whole sequence at once: no KV
/// cache, no chunks, no vectors. Activations are float32, sums are accumulated in double. Matrices
/// are rounded to bfloat16, as an artifact with every expert in `bf16` stores them; norm weights
/// and the router keep the checkpoint's precision. Shares nothing with the compiler but the import.
/// Immutable; may be used from several threads.
class ReferenceModel {
public:
  /// The values of a weight by its name in the checkpoint without ".weight", row-major; nothing: as
  /// the checkpoint has it.
  using Substitute = std::function<std::optional<std::vector<float>>(const std::string &)>;

  /// Copies the weights: as float32, so twice the bytes of a bf16 checkpoint.
  explicit ReferenceModel(const compiler::Checkpoint &checkpoint,
                          const Substitute &substitute = {});

  /// Logits [tokens.size()][vocab_size], row-major. Token ids must lie in [0, vocab_size); throws
  /// std::out_of_range where one does not.
  std::vector<float> logits(llvm::ArrayRef<int32_t> tokens) const;

private:
  /// A weight matrix [rows][columns], row-major; a norm has one row.
  struct Weight {
    uint64_t columns = 0;
    std::vector<float> values;
    const float *row(uint64_t index) const { return values.data() + index * columns; }
    uint64_t rows() const { return values.size() / columns; }
  };
  struct Expert {
    Weight w1, w2, w3;
  };
  struct Layer {
    Weight inputNorm, query, key, value, output, postAttentionNorm, router;
    std::vector<Expert> experts;
  };
  using Vector = std::vector<float>;

  static Vector multiply(const Weight &matrix, const Vector &x);
  Vector normalize(const Weight &norm, const Vector &x) const;
  void rotate(Vector &heads, uint64_t position) const;
  std::vector<Vector> attend(const Layer &layer, const std::vector<Vector> &inputs) const;
  Vector mixExperts(const Layer &layer, const Vector &x) const;

  compiler::MixtralConfig config_;
  Weight embedding_, finalNorm_, head_; ///< head_ is empty where it is the embedding
  std::vector<Layer> layers_;
};

} // namespace moeplan::testing
