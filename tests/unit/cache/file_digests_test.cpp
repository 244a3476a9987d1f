// Digests of a checkpoint's files, remembered.
#include "compiler/import/checkpoint_digest.h"
#include "tests/support/files.h"
#include "tests/support/random_checkpoint.h"

#include <gtest/gtest.h>

#include <ctime>

namespace moeplan::testing {
namespace {

using namespace compiler;

class FileDigestsTest : public ::testing::Test {
protected:
  FileDigestsTest() {
    options_.shards = 2;
    writeRandomCheckpoint(directory_.path() / "model", options_);
  }

  std::unique_ptr<Checkpoint> open() const {
    return llvm::cantFail(Checkpoint::open((directory_.path() / "model").string()));
  }
  std::unique_ptr<BuildCache> openCache() const {
    return llvm::cantFail(BuildCache::open(directory_.path() / "cache", 1 << 20));
  }
  /// How many tensors the cache knows, before any is read.
  size_t knownTensors() const {
    const auto checkpoint = open();
    const auto cache = openCache();
    const CheckpointDigest digest(*checkpoint, *cache);
    size_t known = 0;
    for (const auto &[name, tensor] : checkpoint->tensors())
      known += digest.isKnown(tensor);
    return known;
  }
  std::string digest() const {
    const auto checkpoint = open();
    const auto cache = openCache();
    return llvm::cantFail(CheckpointDigest(*checkpoint, *cache).ofAll());
  }
  /// A file that has just been written is not trusted: its clock may tick too slowly.
  static void waitUntilOld() {
    const timespec time{2, 200'000'000};
    nanosleep(&time, nullptr);
  }

  RandomCheckpointOptions options_;
  TemporaryDirectory directory_;
};

TEST_F(FileDigestsTest, AFileThatWasReadIsKnownUntilItChanges) {
  const std::string fresh = digest();
  EXPECT_EQ(knownTensors(), 0u) << "too young";
  waitUntilOld();
  EXPECT_EQ(digest(), fresh);
  const size_t all = open()->tensors().size();
  EXPECT_EQ(knownTensors(), all);
  EXPECT_EQ(digest(), fresh);
  EXPECT_EQ(digest(), llvm::cantFail(digestOf(*open())));

  // The same size, and even the same time of its last change of content.
  const std::filesystem::path shard = directory_.path() / "model" / open()->files()[1];
  const auto time = std::filesystem::last_write_time(shard);
  std::string bytes = readFile(shard);
  bytes.back() ^= 1;
  writeFile(shard, bytes);
  std::filesystem::last_write_time(shard, time);
  const size_t known = knownTensors();
  EXPECT_GT(known, 0u);
  EXPECT_LT(known, all);
  EXPECT_NE(digest(), fresh);
  EXPECT_EQ(digest(), llvm::cantFail(digestOf(*open())));
}

TEST_F(FileDigestsTest, ATensorHasTheDigestOfWhatItHolds) {
  const auto checkpoint = open();
  BuildCache none;
  CheckpointDigest digest(*checkpoint, none);
  std::map<std::string, std::string> names;
  for (const auto &[name, tensor] : checkpoint->tensors()) {
    const std::string of = llvm::cantFail(digest.of(tensor));
    EXPECT_EQ(of.size(), 32u);
    EXPECT_EQ(llvm::cantFail(digest.of(tensor)), of);
    const bool isNorm = name.find("norm") != std::string::npos; // which may be alike
    EXPECT_TRUE(names.emplace(of, name).second || isNorm) << name << " and " << names[of];
  }
}

} // namespace
} // namespace moeplan::testing
