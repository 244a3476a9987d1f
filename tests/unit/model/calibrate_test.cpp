// Calibration as a whole, on a model whose numbers are random.
#include "compiler/calibrate/calibrate.h"
#include "compiler/calibrate/report.h"
#include "tests/support/compile.h"
#include "tests/unit/model/random_model.h"

#include <gtest/gtest.h>

#include <set>

namespace moeplan::testing {
namespace {

class CalibrateTest : public ::testing::Test {
protected:
  CalibrateTest() {
    writeRandomCheckpoint(path("checkpoint"), options());
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += "the quick brown fox number " + std::to_string(i * 7919 % 1000) + " jumps; ";
    writeFile(path("text.txt"), text);
    request.checkpoint = path("checkpoint");
    request.text = path("text.txt");
    request.output = path("x.moestats");
    request.context = 32;
    request.formats = {"int4g32", "int2g64"};
    request.threads = 2;
  }

  /// Small, but with all tokens of the tokenizer.
  static RandomCheckpointOptions options() {
    RandomCheckpointOptions options = smallestCheckpoint();
    options.config.vocabSize = 2048;
    options.config.hiddenSize = 24;
    options.config.intermediateSize = 40;
    return options;
  }

  std::string path(const char *name) const { return directory.path() / name; }
  std::string error() {
    auto report = compiler::calibrate(request);
    return report ? std::string() : llvm::toString(report.takeError());
  }
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto &entry : std::filesystem::directory_iterator(directory.path()))
      names.insert(entry.path().filename());
    return names;
  }

  TemporaryDirectory directory;
  compiler::CalibrateOptions request;
};

TEST_F(CalibrateTest, EveryTokenReachesItsExperts) {
  auto report = compiler::calibrate(request);
  ASSERT_TRUE(bool(report)) << llvm::toString(report.takeError());
  EXPECT_EQ(report->tokens, report->windows * 32u);
  EXPECT_GE(report->heldOutWindows, (report->windows + report->heldOutWindows) / 10);
  EXPECT_EQ(report->inputBlock, 24u);
  EXPECT_EQ(report->hiddenBlock, 40u);
  EXPECT_TRUE(report->hardlyReached.empty());
  EXPECT_EQ(files(), (std::set<std::string>{"checkpoint", "text.txt", "x.moestats"}));

  auto statistics = llvm::cantFail(compiler::Statistics::open(request.output, ""));
  const fb::Statistics &m = statistics->metadata();
  for (uint32_t layer = 0; layer < m.num_layers(); ++layer) {
    uint64_t tokens = 0;
    double weight = 0;
    for (uint32_t e = 0; e < m.num_experts(); ++e) {
      tokens += statistics->expert(layer, e).tokens();
      weight += statistics->expert(layer, e).routing_weight();
      // Inputs are normalised: their squares sum to what the norm's weights leave of hidden_size
      // for each token, weighted by r^2 <= 1.
      const auto diagonal = compiler::diagonalOf(statistics->moments({layer, e, Linear::w1}));
      double squares = 0;
      for (float value : diagonal)
        squares += double(value);
      const double reached = double(statistics->expert(layer, e).tokens());
      EXPECT_LE(squares, 4 * 24 * reached);
      EXPECT_EQ(squares > 0, reached > 0);
    }
    EXPECT_EQ(tokens, m.tokens() * m.num_experts_per_tok());
    EXPECT_NEAR(weight, double(m.tokens()),
                1e-3 * double(m.tokens())); // weights of a token sum to 1
  }
  // One row for each (layer, expert, linear, format).
  EXPECT_EQ(m.sensitivities()->size(), m.num_layers() * m.num_experts() * 3 * 2);
  for (const fb::Sensitivity *s : *m.sensitivities()) {
    EXPECT_FALSE(s->measured());
    EXPECT_GE(s->predicted(), 0);
  }
}

TEST_F(CalibrateTest, TheSameInputsGiveTheSameBytes) {
  ASSERT_EQ(error(), "");
  const std::string first = readFile(request.output);
  request.threads = 1;
  request.output = path("again.moestats");
  ASSERT_EQ(error(), "");
  EXPECT_EQ(readFile(request.output), first);
}

TEST_F(CalibrateTest, MeasurementsAreOfTheSameOrderAsPredictions) {
  request.measure = true;
  ASSERT_EQ(error(), "");
  auto statistics = llvm::cantFail(compiler::Statistics::open(request.output, ""));
  std::vector<double> predicted, measured;
  for (const fb::Sensitivity *s : *statistics->metadata().sensitivities()) {
    EXPECT_TRUE(s->measured());
    EXPECT_GE(s->measured_divergence(), -1e-7); // float32 rounding of what is never negative
    EXPECT_GE(s->standard_error(), 0);
    predicted.push_back(s->predicted());
    measured.push_back(s->measured_divergence());
  }
  EXPECT_GT(*compiler::rankCorrelation(predicted, measured), 0.5);
  const std::string text = compiler::printStatistics(*statistics);
  EXPECT_NE(text.find("rank correlation of predicted with measured"), std::string::npos) << text;
}

TEST_F(CalibrateTest, StatisticsChangeWhatIsPackedAndAreRecorded) {
  ASSERT_EQ(error(), "");
  compiler::CompileOptions compile;
  compile.checkpoint = request.checkpoint;
  compile.expertFormat = "int4";
  compile.output = path("without.moeplan");
  compileArtifact(compile);
  compile.statistics = request.output;
  compile.output = path("with.moeplan");
  compileArtifact(compile);
  const std::string without = inspect(openArtifact(path("without.moeplan")).get()),
                    with = inspect(openArtifact(path("with.moeplan")).get());
  EXPECT_NE(without.find("\"statistics_digest\": \"\""), std::string::npos);
  EXPECT_EQ(with.find("\"statistics_digest\": \"\""), std::string::npos);
  EXPECT_NE(readFile(path("without.moeplan")), readFile(path("with.moeplan")));

  // Another checkpoint, same shapes.
  RandomCheckpointOptions other = options();
  other.seed = 1;
  writeRandomCheckpoint(path("other"), other);
  compile.checkpoint = path("other");
  try {
    compileArtifact(compile);
    FAIL() << "statistics of another checkpoint were taken";
  } catch (const std::runtime_error &error) {
    EXPECT_NE(std::string(error.what()).find("was made from another checkpoint"), std::string::npos)
        << error.what();
  }
}

TEST_F(CalibrateTest, LittleMemoryKeepsLessOfTheHessian) {
  // 8 experts x (24^2 + 40^2) floats and padding do not fit, diagonals do.
  request.memoryLimit = 10000;
  auto report = compiler::calibrate(request);
  ASSERT_TRUE(bool(report)) << llvm::toString(report.takeError());
  EXPECT_EQ(report->inputBlock, 1u);
  EXPECT_EQ(report->hiddenBlock, 1u);
  request.memoryLimit = 100;
  EXPECT_NE(error().find("even diagonals take"), std::string::npos);
}

TEST_F(CalibrateTest, ActivationsThatAreNoNumbersAreRefused) {
  // The first number of the last layer's expert 0, w1, of a checkpoint in bf16.
  const auto weights = std::filesystem::path(path("checkpoint")) / "model.safetensors";
  std::string bytes = readFile(weights);
  auto checkpoint = llvm::cantFail(compiler::Checkpoint::open(request.checkpoint));
  const uint32_t last = checkpoint->config().numLayers - 1;
  const auto &tensor = checkpoint->tensors().at("model.layers." + std::to_string(last) +
                                                ".block_sparse_moe.experts.0.w1.weight");
  bytes[tensor.offset] = char(0xc0);
  bytes[tensor.offset + 1] = char(0x7f);
  writeFile(weights, bytes);
  EXPECT_EQ(error(), "the model's activations are not finite on " + path("text.txt"));
  EXPECT_EQ(files(), (std::set<std::string>{"checkpoint", "text.txt"}));
}

TEST_F(CalibrateTest, TextsThatSayTooLittleAreRefused) {
  writeFile(path("text.txt"), "");
  EXPECT_EQ(error(), path("text.txt") + ": is empty");
  writeFile(path("text.txt"), "A few words.");
  EXPECT_NE(error().find("calibration needs two windows of 31"), std::string::npos) << error();
  request.maxTokens = 61;
  writeFile(path("text.txt"), std::string(5000, 'x'));
  EXPECT_NE(error().find("61 tokens, calibration needs two windows"), std::string::npos) << error();
  writeFile(path("text.txt"), "\xff\xfe");
  EXPECT_NE(error().find("text.txt: "), std::string::npos);
  request.text = path("nowhere.txt");
  EXPECT_EQ(error(), path("nowhere.txt") + ": No such file or directory");
  EXPECT_EQ(files(), (std::set<std::string>{"checkpoint", "text.txt"}));
}

} // namespace
} // namespace moeplan::testing
