// A real artifact, cut and damaged everywhere: opening it fails in one line, or what it gives is
// safe.
#include "runtime/artifact/artifact.h"
#include "tests/fuzz/mutation.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/compile.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <iostream>
#include <set>
#include <unistd.h>

namespace moeplan::testing {
namespace {

void expectOneLine(const std::string &path, const std::string &message) {
  EXPECT_TRUE(message.starts_with(path + ": ")) << message;
  EXPECT_EQ(message.find_first_of("\n\r"), std::string::npos) << message;
  EXPECT_LT(message.size(), 4096u);
}

class ArtifactFuzzTest : public ::testing::Test {
protected:
  static void SetUpTestSuite() {
    directory = std::make_unique<TemporaryDirectory>();
    path = directory->path() / "tiny.moeplan";
    compileArtifact(kTinyMixtral, path);
    good = readFile(path);
    header = headerOf(good);
    metadataEnd = header.metadata_offset + header.metadata_size;
  }
  static void TearDownTestSuite() {
    directory.reset();
    good.clear();
  }

  void SetUp() override {
    fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
  }
  void TearDown() override { ::close(fd); }

  /// Writes bytes [begin, end) of `bytes` to their place in the file.
  void store(const std::string &bytes, size_t begin, size_t end) const {
    ASSERT_EQ(::pwrite(fd, bytes.data() + begin, end - begin, off_t(begin)), ssize_t(end - begin));
  }

  static void expectRefusal(const std::string &what) {
    auto artifact = Artifact::open(path);
    ASSERT_FALSE(artifact.ok()) << what;
    expectOneLine(path, artifact.failure().message());
  }

  static std::vector<std::pair<std::string, std::pair<uint64_t, uint64_t>>> segments() {
    auto artifact = Artifact::open(path);
    EXPECT_TRUE(artifact.ok());
    std::vector<std::pair<std::string, std::pair<uint64_t, uint64_t>>> result;
    for (const fb::Segment *segment : *artifact.value()->metadata().segments()) {
      const uint64_t begin = header.segment_base + segment->extent()->offset();
      result.push_back(
          {segment->name()->str(), {begin, begin + segment->extent()->stored_bytes()}});
    }
    return result;
  }

  static inline std::unique_ptr<TemporaryDirectory> directory;
  static inline std::string path, good;
  static inline ArtifactHeader header;
  static inline size_t metadataEnd = 0;
  int fd = -1;
};

TEST_F(ArtifactFuzzTest, AFileCutAnywhereIsRefused) {
  std::set<uint64_t, std::greater<>> lengths{good.size() - 1};
  for (uint64_t length = 0; length <= sizeof(ArtifactHeader); ++length)
    lengths.insert(length);
  for (uint64_t length = sizeof(ArtifactHeader); length < metadataEnd; length += 61)
    lengths.insert(length);
  for (uint64_t border : {uint64_t(metadataEnd), header.segment_base})
    lengths.insert({border - 1, border, border + 1});
  for (const auto &[name, range] : segments())
    for (uint64_t border : {range.first, range.second})
      lengths.insert({border - 1, border, border + 1});
  lengths.erase(good.size());
  lengths.erase(good.size() + 1);
  for (uint64_t length : lengths) {
    ASSERT_EQ(::ftruncate(fd, off_t(length)), 0);
    expectRefusal("cut to " + std::to_string(length));
  }
  store(good, 0, good.size());
  EXPECT_TRUE(Artifact::open(path).ok());
}

TEST_F(ArtifactFuzzTest, AFileThatIsTooLongIsRefused) {
  ASSERT_EQ(::ftruncate(fd, off_t(good.size() + 1)), 0);
  expectRefusal("one byte more");
  ASSERT_EQ(::ftruncate(fd, off_t(good.size())), 0);
}

TEST_F(ArtifactFuzzTest, EveryFlippedBitOfTheHeaderIsRefused) {
  for (size_t bit = 0; bit < sizeof(ArtifactHeader) * 8; ++bit) {
    std::string bytes = good.substr(0, sizeof(ArtifactHeader));
    bytes[bit / 8] ^= char(1 << bit % 8);
    store(bytes, 0, bytes.size());
    expectRefusal("header bit " + std::to_string(bit));
  }
  store(good, 0, sizeof(ArtifactHeader));
}

TEST_F(ArtifactFuzzTest, FlippedBytesOfTheMetadataAreRefused) {
  Mutator mutator(1);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = good.substr(0, metadataEnd);
    mutator.flipByte(bytes, sizeof(ArtifactHeader), metadataEnd);
    store(bytes, 0, bytes.size());
    expectRefusal("mutation " + std::to_string(i));
  }
  store(good, 0, metadataEnd);
}

/// As an attacker would do it: the checksum is right, so that only the rules stand in the way.
/// `store` writes the header and the metadata of `good` into the file at `path`.
template <typename Store>
void damageMetadata(const std::string &path, const std::string &good, int mutations, Store store) {
  const ArtifactHeader header = headerOf(good);
  const size_t metadataEnd = header.metadata_offset + header.metadata_size;
  Mutator mutator(2);
  int opened = 0, verified = 0;
  std::set<std::string> messages;
  for (int i = 0; i < mutations; ++i) {
    std::string bytes = good.substr(0, metadataEnd);
    for (uint64_t count = mutator.below(3) + 1; count > 0; --count)
      mutator.mutate(bytes, sizeof(ArtifactHeader), metadataEnd);
    sealArtifact(bytes, header);
    store(bytes);
    auto artifact = Artifact::open(path);
    if (!artifact.ok()) {
      expectOneLine(path, artifact.failure().message());
      messages.insert(artifact.failure().message().substr(path.size()));
      continue;
    }
    ++opened;
    EXPECT_FALSE(inspectArtifact(*artifact.value()).empty());
    const Status status = artifact.value()->verify({});
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
    verified += status.ok();
  }
  std::cout << mutations << " mutations: " << opened << " opened, " << verified << " verified, "
            << messages.size() << " different refusals\n";
  EXPECT_GT(opened, 0);
  EXPECT_LT(opened, mutations);
  EXPECT_GT(messages.size(), 20u);
}

TEST_F(ArtifactFuzzTest, DamagedMetadataWithARightChecksumIsRefusedOrSafe) {
  damageMetadata(path, good, 20000,
                 [&](const std::string &bytes) { store(bytes, 0, bytes.size()); });
  store(good, 0, metadataEnd);
}

TEST_F(ArtifactFuzzTest, DamagedMetadataOfSyntheticWeightsIsRefusedOrSafe) {
  compiler::CompileOptions options;
  options.config = kTinyMixtral / "config.json";
  options.expertFormat = "int4g64";
  options.output = directory->path() / "synthetic.moeplan";
  compileArtifact(options);
  const std::string synthetic = readFile(options.output);
  damageMetadata(options.output, synthetic, 5000, [&](const std::string &bytes) {
    writeFile(options.output, bytes + synthetic.substr(bytes.size()));
  });
}

TEST_F(ArtifactFuzzTest, VerifyNamesTheSegmentWithAFlippedBit) {
  Mutator mutator(3);
  size_t index = 0;
  for (const auto &[name, range] : segments()) {
    // The first, the last and a random byte; of the many weights, every seventh.
    if (index++ % 7 != 0)
      continue;
    for (uint64_t position :
         {range.first, range.second - 1, range.first + mutator.below(range.second - range.first)}) {
      std::string byte(1, char(good[position] ^ (1 << mutator.below(8))));
      ASSERT_EQ(::pwrite(fd, byte.data(), 1, off_t(position)), 1);
      auto artifact = Artifact::open(path);
      ASSERT_TRUE(artifact.ok()) << "weights are not read on open";
      EXPECT_EQ(artifact.value()->verify({}).message(),
                path + ": segment '" + name + "': checksum does not match");
      store(good, position, position + 1);
    }
  }
  EXPECT_EQ(Artifact::open(path).value()->verify({}).message(), "");
}

} // namespace
} // namespace moeplan::testing
