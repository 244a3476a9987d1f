#include "random_model.h"

#include "tests/support/compile.h"

#include <map>
#include <random>
#include <stdexcept>

namespace moeplan::testing {

namespace {

RandomCheckpointOptions withTokenizer(RandomCheckpointOptions options) {
  options.tokenizer = kTinyMixtral / "tokenizer.model";
  return options;
}

} // namespace

RandomCheckpointOptions smallestCheckpoint() {
  RandomCheckpointOptions options;
  options.config.vocabSize = 40;
  options.config.hiddenSize = 5;
  options.config.intermediateSize = 7;
  options.config.numAttentionHeads = 1;
  options.config.numKeyValueHeads = 1;
  options.config.headDim = 4;
  options.config.numExperts = 4;
  return withTokenizer(options);
}

std::vector<RandomModelVariant> randomModelVariants() {
  std::vector<RandomModelVariant> variants{{"Uneven", {}}};
  auto add = [&](const char *name, auto &&change) {
    change(variants.emplace_back(RandomModelVariant{name, {}}).options);
  };
  // Each costs seconds of machine code generation, so that most try two things at once.
  add("F16TiedEmbeddings", [](auto &options) {
    options.dtype = compiler::DType::F16;
    options.config.tieWordEmbeddings = true;
  });
  add("F32TopOne", [](auto &options) {
    options.dtype = compiler::DType::F32;
    options.config.numExpertsPerToken = 1;
  });
  add("ShardedSlidingWindow5", [](auto &options) {
    options.shards = 3;
    options.config.slidingWindow = 5;
  });
  add("HeadDim24TopThree", [](auto &options) {
    options.config.headDim = 24;
    options.config.numExpertsPerToken = 3;
  });
  add("OddExtentsTopAll", [](auto &options) {
    options.config.vocabSize = 67;
    options.config.hiddenSize = 45;
    options.config.intermediateSize = 39;
    options.config.numAttentionHeads = 3;
    options.config.numKeyValueHeads = 1;
    options.config.headDim = 10;
    options.config.numExperts = 5;
    options.config.numExpertsPerToken = 5;
  });
  return variants;
}

CompiledModel::CompiledModel(const RandomCheckpointOptions &options) {
  writeRandomCheckpoint(checkpointPath(), withTokenizer(options));
  auto opened = compiler::Checkpoint::open(checkpointPath().string());
  if (!opened)
    throw std::runtime_error(llvm::toString(opened.takeError()));
  checkpoint = std::move(*opened);
  compileArtifact(checkpointPath(), artifactPath());
  artifact = openArtifact(artifactPath());
}

ArtifactHandle CompiledModel::compileExact() const {
  compiler::CompileOptions options;
  options.checkpoint = checkpointPath();
  options.output = directory.path() / "exact.moeplan";
  options.expertFormat = options.nonExpertFormat = options.kvFormat = "f32";
  compileArtifact(options);
  return openArtifact(options.output);
}

const CompiledModel &compiledModel(const RandomModelVariant &variant) {
  static std::map<std::string, std::unique_ptr<CompiledModel>> models;
  std::unique_ptr<CompiledModel> &model = models[variant.name];
  if (!model)
    model = std::make_unique<CompiledModel>(variant.options);
  return *model;
}

const CompiledModel &unevenModel() { return compiledModel({"Uneven", {}}); }

std::vector<int32_t> randomTokens(size_t count, size_t vocabSize, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t &token : tokens)
    token = int32_t(random() % vocabSize);
  return tokens;
}

} // namespace moeplan::testing
