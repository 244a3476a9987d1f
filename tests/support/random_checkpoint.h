// Checkpoints made of random numbers, and checkpoints broken on purpose.
#pragma once

#include "compiler/import/checkpoint.h"
#include "tests/support/files.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace moeplan::testing {

/// Row-major float32 values as the little-endian bytes of `dtype`, rounded to nearest even.
std::string encodeTensor(llvm::ArrayRef<float> values, compiler::DType dtype);

/// Builds a safetensors file, of any content: nothing is checked. For files that are wrong in one
/// place, take header() and data(), break them, and write them with writeSafetensors.
class SafetensorsWriter {
public:
  /// Appends a tensor; `dtype` as safetensors spells it.
  void add(llvm::StringRef name, llvm::StringRef dtype, llvm::ArrayRef<uint64_t> shape,
           llvm::StringRef bytes);
  /// The JSON text of the header.
  std::string header() const;
  const std::string &data() const { return data_; }
  void write(const std::filesystem::path &path) const;

private:
  std::vector<std::string> entries_; ///< `"name": {...}`
  std::string data_;
};

/// A safetensors file's bytes: the length of `header` in 8 little-endian bytes, `header`, `data`.
std::string joinSafetensors(llvm::StringRef header, llvm::StringRef data);
void writeSafetensors(const std::filesystem::path &path, llvm::StringRef header,
                      llvm::StringRef data);

/// A model whose extents are multiples of no tile or vector length that a kernel may favour.
compiler::MixtralConfig unevenMixtralConfig();

struct RandomCheckpointOptions {
  compiler::MixtralConfig config = unevenMixtralConfig();
  compiler::DType dtype = compiler::DType::BF16; ///< of every tensor
  uint32_t shards = 1;                           ///< above 1: with an index
  uint64_t seed = 0;
  std::filesystem::path tokenizer; ///< copied as tokenizer.model; empty: none is written
};

/// The text of `config.json`.
std::string mixtralConfigJson(const compiler::MixtralConfig &config);

/// Writes a checkpoint into `directory`, which is created. Weights depend on the seed and on the
/// tensor's name alone, so the same model can be written in different dtypes and shards. Their
/// scales keep activations near unit variance: embedding 1, matrices 1/sqrt(columns), norms around
/// 1; the router's logits are spread wide, so that few tokens stand between two experts.
void writeRandomCheckpoint(const std::filesystem::path &directory,
                           const RandomCheckpointOptions &options);

} // namespace moeplan::testing
