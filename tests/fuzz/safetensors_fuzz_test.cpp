// A good checkpoint with damaged text: it is refused in one line, or what it gives is in range.
#include "compiler/import/checkpoint_digest.h"
#include "tests/fuzz/mutation.h"
#include "tests/support/random_checkpoint.h"

#include "llvm/Support/Endian.h"

#include <gtest/gtest.h>

#include <iostream>

namespace moeplan::testing {
namespace {

class CheckpointFuzzTest : public ::testing::Test {
protected:
  CheckpointFuzzTest() {
    RandomCheckpointOptions options;
    compiler::MixtralConfig &config = options.config;
    config.vocabSize = 16;
    config.hiddenSize = 8;
    config.intermediateSize = 12;
    config.numLayers = 1;
    config.numAttentionHeads = 2;
    config.numKeyValueHeads = 1;
    config.headDim = 4;
    config.numExperts = 2;
    options.tokenizer = MOEPLAN_SOURCE_DIR "/examples/tiny-mixtral/tokenizer.model";
    writeRandomCheckpoint(directory.path(), options);
  }

  std::filesystem::path file(const char *name) const { return directory.path() / name; }

  /// Opens the checkpoint; whether that succeeded.
  bool open() const {
    auto checkpoint = compiler::Checkpoint::open(directory.path().string());
    if (!checkpoint) {
      const std::string message = llvm::toString(checkpoint.takeError());
      EXPECT_FALSE(message.empty());
      EXPECT_EQ(message.find_first_of("\n\r"), std::string::npos) << message;
      return false;
    }
    EXPECT_FALSE(
        llvm::cantFail(digestOf(**checkpoint)).empty()); // reads every byte of every tensor
    return true;
  }

  void fuzz(const char *name, const std::string &good, size_t begin, size_t end, int mutations) {
    Mutator mutator(7);
    int opened = 0;
    for (int i = 0; i < mutations; ++i) {
      std::string bytes = good;
      if (mutator.below(2) == 0)
        mutator.mutate(bytes, begin, end);
      else
        editText(mutator, bytes, begin, end);
      writeFile(file(name), bytes);
      opened += open();
    }
    writeFile(file(name), good);
    EXPECT_TRUE(open());
    std::cout << name << ": " << opened << " of " << mutations << " mutations opened\n";
    EXPECT_LT(opened, mutations);
  }

  /// Damage that leaves JSON as JSON more often than flipped bits do.
  static void editText(Mutator &mutator, std::string &bytes, size_t begin, size_t end) {
    static constexpr const char *kWords[] = {
        "0",  "-1", "1e999", "4294967296",           "null", "true",
        "[]", "{}", "\"\"",  "18446744073709551615", "0.5",  "[[[["};
    const size_t at = begin + mutator.below(end - begin);
    const std::string word = kWords[mutator.below(std::size(kWords))];
    const size_t number = bytes.find_first_of("0123456789", at);
    switch (mutator.below(4)) {
    case 0: // in place of a number
      if (number < end)
        bytes.replace(number, bytes.find_first_not_of("0123456789", number) - number, word);
      break;
    case 1: // another digit
      if (number < end)
        bytes[number] = char('0' + mutator.below(10));
      break;
    case 2: // inserted
      bytes.insert(at, word);
      break;
    default: // taken out
      bytes.erase(at, 1 + mutator.below(std::min<size_t>(40, end - at)));
    }
  }

  TemporaryDirectory directory;
};

TEST_F(CheckpointFuzzTest, DamagedSafetensorsHeadersAreRefusedOrSafe) {
  const std::string good = readFile(file("model.safetensors"));
  const size_t headerEnd = 8 + llvm::support::endian::read64le(good.data());
  ASSERT_LT(headerEnd, good.size());
  fuzz("model.safetensors", good, 0, headerEnd, 4000);
}

TEST_F(CheckpointFuzzTest, ASafetensorsFileCutAnywhereIsRefused) {
  const std::string good = readFile(file("model.safetensors"));
  for (size_t length = 0; length < good.size(); length += length < 64 ? 1 : 37) {
    writeFile(file("model.safetensors"), std::string_view(good).substr(0, length));
    EXPECT_FALSE(open()) << "cut to " << length;
  }
}

TEST_F(CheckpointFuzzTest, DamagedConfigsAreRefusedOrSafe) {
  const std::string good = readFile(file("config.json"));
  fuzz("config.json", good, 0, good.size(), 4000);
}

TEST_F(CheckpointFuzzTest, AConfigCutAnywhereIsRefused) {
  const std::string good = readFile(file("config.json"));
  for (size_t length = 0; length + 2 < good.size(); ++length) { // without `}` and newline
    writeFile(file("config.json"), std::string_view(good).substr(0, length));
    EXPECT_FALSE(open()) << "cut to " << length;
  }
}

} // namespace
} // namespace moeplan::testing
