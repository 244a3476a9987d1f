// A Hugging Face Mixtral checkpoint on disk: what its files say, checked, without reading the
// weights.
#pragma once

#include "runtime/support/mapped_file.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// The fields of `config.json` (model_type `mixtral`) that matter to execution.
struct MixtralConfig {
  uint32_t vocabSize = 0;
  uint32_t hiddenSize = 0;
  uint32_t intermediateSize = 0;
  uint32_t numLayers = 0;
  uint32_t numAttentionHeads = 0;
  uint32_t numKeyValueHeads = 0;
  uint32_t headDim = 0; ///< `head_dim`, or hidden_size / num_attention_heads where it is absent
  uint32_t numExperts = 0;
  uint32_t numExpertsPerToken = 0;
  double rmsNormEps = 0;
  double ropeTheta = 0;
  uint32_t slidingWindow = 0; ///< 0: none
  uint32_t maxPositionEmbeddings = 0;
  bool tieWordEmbeddings = false;
  int32_t bosTokenId = -1;          ///< -1: none
  std::vector<int32_t> eosTokenIds; ///< `eos_token_id` is a number, a list or null
};

/// Element types a checkpoint may hold.
enum class DType { F32, F16, BF16 };
uint64_t dtypeBytes(DType dtype);
llvm::StringRef dtypeName(DType dtype); ///< as in safetensors: "F32", "F16", "BF16"

/// A tensor as a byte range of one of the checkpoint's files. Row-major.
struct TensorInfo {
  std::string name;  ///< "model.layers.0.self_attn.q_proj.weight"
  uint32_t file = 0; ///< index into Checkpoint::files()
  DType dtype = DType::BF16;
  llvm::SmallVector<uint64_t, 2> shape;
  uint64_t offset = 0; ///< from the start of the file, in bytes
  uint64_t bytes = 0;
};

/// Parses and checks the text of `config.json`. `origin` is what messages call the file.
llvm::Expected<MixtralConfig> parseMixtralConfig(llvm::StringRef json, llvm::StringRef origin);

/// The tensors that a model of this configuration has, by name, with their shapes; in model order.
std::vector<std::pair<std::string, llvm::SmallVector<uint64_t, 2>>>
expectedTensors(const MixtralConfig &config);

/// An open checkpoint. Weight files are mapped read-only; nothing of them but the headers is read
/// until bytes() is used. Immutable; may be used from several threads.
class Checkpoint {
public:
  /// Opens `directory` and checks everything that can be checked without reading weights: every
  /// expected tensor is there exactly once with its shape and a supported dtype, nothing is
  /// unexpected, no byte range leaves its file or overlaps another. Each error is one line that
  /// names the tensor, the file, what was expected and what was found.
  static llvm::Expected<std::unique_ptr<Checkpoint>> open(llvm::StringRef directory);
  /// A checkpoint that is only a configuration, the `config.json` at `path`: its tensors, all bf16,
  /// have names and shapes but no bytes, to be generated from `seed` by who runs the model. It has
  /// no tokenizer.
  static llvm::Expected<std::unique_ptr<Checkpoint>> synthetic(llvm::StringRef path, uint64_t seed);
  ~Checkpoint();

  const MixtralConfig &config() const { return config_; }
  /// Of synthetic().
  std::optional<uint64_t> syntheticSeed() const { return seed_; }
  /// File names relative to the directory: "model.safetensors" or the shards, sorted by name.
  llvm::ArrayRef<std::string> files() const { return files_; }
  /// The tensors of expectedTensors(), by name. What a file holds besides and adds nothing, such as
  /// an lm_head.weight next to tied embeddings, is left out.
  const std::map<std::string, TensorInfo> &tensors() const { return tensors_; }
  /// The mapped bytes of a tensor; borrowed from the checkpoint. They need not be aligned to their
  /// element size: the format does not promise it. Not of a synthetic checkpoint.
  llvm::ArrayRef<uint8_t> bytes(const TensorInfo &tensor) const;
  /// The bytes of `tokenizer.model`; empty where there is none.
  llvm::ArrayRef<uint8_t> tokenizer() const;
  /// Tells the kernel that the tensor's pages will not be needed again, so that resident memory
  /// stays bounded while a large checkpoint streams through.
  void release(const TensorInfo &tensor) const;
  /// Reads the tensor into memory, whence release() lets it go. An error, naming file and tensor,
  /// where the disk fails.
  llvm::Error bringIn(const TensorInfo &tensor) const;
  /// Of files()[index] when it was opened.
  const FileStamp &stampOf(uint32_t index) const;

private:
  Checkpoint() = default;
  struct Impl;
  /// Maps files()[index] and adds its tensors. `shardOfTensor` is the index's weight_map, or null
  /// where there is a single file.
  llvm::Error addWeightFile(const std::string &directory, uint32_t index,
                            const std::map<std::string, std::string> *shardOfTensor);

  MixtralConfig config_;
  std::optional<uint64_t> seed_;
  std::vector<std::string> files_;
  std::map<std::string, TensorInfo> tensors_;
  std::unique_ptr<Impl> impl_;
};

} // namespace moeplan::compiler
