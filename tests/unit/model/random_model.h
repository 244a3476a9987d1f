// Random models, compiled once per process and shared by the tests that run them.
#pragma once

#include "tests/support/api.h"
#include "tests/support/random_checkpoint.h"
#include "tests/support/reference_model.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace moeplan::testing {

/// A random checkpoint with a name for test reports.
struct RandomModelVariant {
  std::string name;
  RandomCheckpointOptions options;
};

/// The uneven model and one variant per thing that a checkpoint may do otherwise.
std::vector<RandomModelVariant> randomModelVariants();

/// A checkpoint whose kernels compile as fast as any: for tests of files. With tokenizer.
RandomCheckpointOptions smallestCheckpoint();

/// A checkpoint, its artifact and its reference.
struct CompiledModel {
  explicit CompiledModel(const RandomCheckpointOptions &options);

  std::filesystem::path checkpointPath() const { return directory.path() / "checkpoint"; }
  std::filesystem::path artifactPath() const { return directory.path() / "model.moeplan"; }
  size_t vocabSize() const { return checkpoint->config().vocabSize; }
  /// The model with float32 weights and KV cache: activations then are float32 too, and nothing but
  /// rounding is between the kernels and a reference.
  ArtifactHandle compileExact() const;

  TemporaryDirectory directory;
  std::unique_ptr<compiler::Checkpoint> checkpoint;
  ArtifactHandle artifact;
};

/// The variant, compiled on first use.
const CompiledModel &compiledModel(const RandomModelVariant &variant);
/// The uneven model itself.
const CompiledModel &unevenModel();

/// Token ids in [0, vocabSize), the same for the same seed.
std::vector<int32_t> randomTokens(size_t count, size_t vocabSize, uint64_t seed = 1);

} // namespace moeplan::testing
