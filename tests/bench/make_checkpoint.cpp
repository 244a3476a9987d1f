// moeplan-make-checkpoint: a checkpoint of random weights, to measure speed at shapes that no
// trained checkpoint here has.

#include "runtime/support/command_line.h"
#include "tests/support/random_checkpoint.h"

int main(int argc, char **argv) {
  using namespace moeplan;
  testing::RandomCheckpointOptions options;
  compiler::MixtralConfig &config = options.config;
  config.vocabSize = 8192;
  config.hiddenSize = 1024;
  config.intermediateSize = 3584;
  config.numLayers = 4;
  config.numAttentionHeads = 16;
  config.numKeyValueHeads = 4;
  config.headDim = 64;
  config.numExperts = 8;
  config.numExpertsPerToken = 2;
  config.maxPositionEmbeddings = 4096;
  options.tokenizer = MOEPLAN_SOURCE_DIR "/examples/tiny-mixtral/tokenizer.model";

  std::string directory;
  CLI::App app("Writes a Mixtral checkpoint of random weights.", "moeplan-make-checkpoint");
  app.add_option("DIRECTORY", directory, "where to")->required();
  app.add_option("--hidden-size", config.hiddenSize)->capture_default_str();
  app.add_option("--intermediate-size", config.intermediateSize)->capture_default_str();
  app.add_option("--layers", config.numLayers)->capture_default_str();
  app.add_option("--experts", config.numExperts)->capture_default_str();
  app.add_option("--shards", options.shards)->capture_default_str();
  if (const std::optional<int> code = parseCommandLine(app, argc, argv))
    return *code;
  try {
    testing::writeRandomCheckpoint(directory, options);
  } catch (const std::exception &error) {
    return reportFailure(app.get_name(), error.what(), kExitFailed);
  }
  return kExitDone;
}
