// Quantised models against the scalar reference with the weights that the artifact holds.
#include "formats.h"
#include "runtime/artifact/artifact.h"
#include "tests/support/compile.h"
#include "tests/unit/model/random_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

namespace moeplan::testing {
namespace {

/// Every width, group size and non-expert weight; formats differ inside a layer and inside an
/// expert.
constexpr const char *kMixedFormats = R"(
layers.0.experts.0.*  int8g32    # a whole expert
layers.0.experts.1.w1 int4g32
layers.0.experts.1.w3 int4g128
layers.0.experts.1.w2 int2g64
layers.0.experts.2.w? int3g64
layers.*.experts.3.w2 int3g32
layers.*.experts.3    bf16
layers.1.experts.4.*  int2g128
layers.1.*.w1         int2g32
layers.1.*            int4g64
)";

class QuantizedModelTest : public ::testing::Test {
protected:
  /// Opens `path` twice: for the session and for its weights.
  void open(const std::filesystem::path &path) {
    artifact = openArtifact(path);
    auto opened = Artifact::open(path);
    ASSERT_TRUE(opened.ok()) << opened.failure().message();
    content = std::move(opened).value();
  }

  /// The values of the only segment whose weight is called `name`, by the layout's scalar code.
  std::optional<std::vector<float>> weight(const std::string &name) const {
    const auto &segments = *content->metadata().segments();
    for (uint32_t index = 0; index < segments.size(); ++index) {
      const fb::Segment &segment = *segments.Get(index);
      if (segment.name()->str().substr(0, segment.name()->str().find('@')) != name)
        continue;
      const FormatInfo &format = *findFormat(uint32_t(segment.format()));
      const WeightShape shape{format.bits, format.groupSize, segment.shape()->Get(0),
                              segment.shape()->Get(1)};
      const auto *data = reinterpret_cast<const uint8_t *>(content->weight(index).data());
      std::vector<float> values;
      for (uint64_t row = 0; row < shape.rows; ++row)
        for (uint64_t column = 0; column < shape.columns; ++column)
          values.push_back(format.packing->at(shape, data, row, column));
      return values;
    }
    return std::nullopt;
  }

  /// "model.layers.0.block_sparse_moe.experts.1.w2" is "layers.0.experts.1.w2" in an artifact.
  ReferenceModel reference(const compiler::Checkpoint &checkpoint) const {
    return ReferenceModel(checkpoint, [&](const std::string &name) {
      std::string ours = name;
      auto replace = [&](std::string_view from, std::string_view to) {
        if (const size_t at = ours.find(from); at != std::string::npos)
          ours.replace(at, from.size(), to);
      };
      replace("model.embed_tokens", "embedding");
      replace("lm_head", "output");
      replace("model.", "");
      replace("block_sparse_moe.", "");
      replace("self_attn", "attention");
      replace("_proj", "");
      auto values = weight(ours);
      EXPECT_TRUE(values) << name << " is not " << ours;
      return values;
    });
  }

  TemporaryDirectory directory;
  ArtifactHandle artifact;
  std::unique_ptr<Artifact> content;
};

TEST_F(QuantizedModelTest, MixedFormatsEqualTheReference) {
  const CompiledModel &model = unevenModel();
  writeFile(directory.path() / "formats.txt", kMixedFormats);
  compiler::CompileOptions options;
  options.checkpoint = model.checkpointPath();
  options.output = directory.path() / "mixed.moeplan";
  options.expertFormatFile = directory.path() / "formats.txt";
  options.expertFormat = "int3g128";
  options.nonExpertFormat = "int8";
  options.kvFormat = "f32";
  compileArtifact(options);
  open(options.output);
  const ReferenceModel expected = reference(*model.checkpoint);
  const std::vector<int32_t> tokens = randomTokens(300, model.vocabSize());
  const std::vector<float> logits = expected.logits(tokens);
  const SessionHandle session = createSession(artifact.get());
  for (size_t chunk : {0, 1, 33}) {
    moeplan_session_reset(session.get());
    const size_t count = chunk == 1 ? 20 : tokens.size();
    const std::vector<float> actual =
        logitsOf(session.get(), std::span(tokens).first(count), model.vocabSize(), chunk);
    float largest = 0;
    double sum = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
      largest = std::max(largest, std::abs(actual[i] - logits[i]));
      sum += std::abs(actual[i] - logits[i]);
    }
    // The weights are the same; activations beside them have 8 bits.
    std::cout << "chunks of " << chunk << ": max |logit difference| " << largest << ", mean "
              << sum / double(actual.size()) << "\n";
    EXPECT_LE(largest, 0.15f);
    EXPECT_LE(sum / double(actual.size()), 0.01);
  }
  // Quantising does change the model.
  const SessionHandle exact = createSession(model.artifact.get());
  EXPECT_NE(logitsOf(exact.get(), std::span(tokens).first(5), model.vocabSize()),
            std::vector<float>(logits.begin(), logits.begin() + ptrdiff_t(5 * model.vocabSize())));
}

TEST_F(QuantizedModelTest, ChunksAndThreadsGiveTheSameBytes) {
  const CompiledModel &model = unevenModel();
  compiler::CompileOptions options;
  options.checkpoint = model.checkpointPath();
  options.output = directory.path() / "int3.moeplan";
  options.expertFormat = "int3";
  compileArtifact(options);
  open(options.output);
  const std::vector<int32_t> tokens = randomTokens(70, model.vocabSize());
  std::vector<float> whole;
  for (uint32_t threads : {1, 2, 3}) {
    const SessionHandle session = createSession(artifact.get(), {.threads = threads});
    for (size_t chunk : {0, 1, 5, 64}) {
      moeplan_session_reset(session.get());
      const std::vector<float> logits = logitsOf(session.get(), tokens, model.vocabSize(), chunk);
      if (whole.empty())
        whole = logits;
      EXPECT_EQ(logits, whole) << threads << " threads, chunks of " << chunk;
    }
  }
}

TEST_F(QuantizedModelTest, TwoArtifactsInOneProcessKeepTheirOwnKernels) {
  // Sessions of the reference model and of a quantised one, made and used side by side.
  const CompiledModel &model = unevenModel();
  compiler::CompileOptions options;
  options.checkpoint = model.checkpointPath();
  options.output = directory.path() / "int4.moeplan";
  options.expertFormat = "int4";
  compileArtifact(options);
  open(options.output);
  const std::vector<int32_t> tokens = randomTokens(9, model.vocabSize());
  const SessionHandle first = createSession(model.artifact.get());
  const std::vector<float> before = logitsOf(first.get(), tokens, model.vocabSize());
  const SessionHandle second = createSession(artifact.get());
  const std::vector<float> quantised = logitsOf(second.get(), tokens, model.vocabSize());
  moeplan_session_reset(first.get());
  EXPECT_EQ(logitsOf(first.get(), tokens, model.vocabSize()), before);
  const std::vector<float> expected = reference(*model.checkpoint).logits(tokens);
  for (size_t i = 0; i < quantised.size(); ++i)
    ASSERT_NEAR(quantised[i], expected[i], 0.05f); // activations have 8 bits
}

} // namespace
} // namespace moeplan::testing
