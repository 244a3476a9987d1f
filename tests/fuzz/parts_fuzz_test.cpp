// Parts of artifacts and patches, cut and damaged everywhere: each fails in one line, or gives what
// it should.
#include "patch_header.h"
#include "runtime/artifact/parts.h"
#include "runtime/artifact/patch.h"
#include "runtime/support/file_reader.h"
#include "runtime/support/hash.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

namespace moeplan::testing {
namespace {

using D = ArtifactDraft;

void expectOneLine(const std::string &message) {
  EXPECT_FALSE(message.empty());
  EXPECT_EQ(message.find_first_of("\n\r"), std::string::npos) << message;
  EXPECT_LT(message.size(), 4096u);
}

class PartsFuzzTest : public ::testing::Test {
protected:
  PartsFuzzTest() { before.write(path("before.moeplan")); }

  std::string path(const std::string &name) const { return directory.path() / name; }
  static std::unique_ptr<Artifact> open(const std::string &path) {
    auto artifact = Artifact::open(path);
    EXPECT_TRUE(artifact.ok()) << artifact.failure().message();
    return std::move(artifact).value();
  }

  /// Writes the artifact "before" in parts of `maxBytes`; their paths.
  std::vector<std::string> split(uint64_t maxBytes) const {
    const std::string whole = readFile(path("before.moeplan"));
    const auto parts = planParts(whole.size(), headerOf(whole).checksum, maxBytes);
    EXPECT_TRUE(parts.ok());
    std::vector<std::string> paths;
    for (const PartHeader &part : parts.value()) {
      std::string bytes(kMappedAlignment, '\0');
      std::memcpy(bytes.data(), &part, sizeof(part));
      paths.push_back(partPath(path("parts.moeplan"), part.index, part.count));
      writeFile(paths.back(), bytes + whole.substr(part.offset, part.bytes));
    }
    return paths;
  }

  TemporaryDirectory directory;
  ArtifactDraft before;
};

TEST_F(PartsFuzzTest, PartsTogetherAreTheArtifact) {
  const std::string whole = readFile(path("before.moeplan"));
  for (const uint64_t maxBytes : {8192u, 12288u, 16383u, 1u << 20}) {
    for (const std::string &part : split(maxBytes)) {
      const auto artifact = open(part);
      const std::span<const std::byte> bytes = artifact->bytes();
      EXPECT_EQ(std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size()),
                whole);
      EXPECT_EQ(artifact->verify({}).message(), "");
      EXPECT_LE(std::filesystem::file_size(part), maxBytes);
    }
  }
  EXPECT_FALSE(planParts(whole.size(), 0, 8191).ok());
  EXPECT_FALSE(planParts(uint64_t(1) << 40, 0, 8192).ok());
}

TEST_F(PartsFuzzTest, PartsAreReadAcrossTheirEnds) {
  const std::string whole = readFile(path("before.moeplan"));
  auto file = openArtifactFile(split(8192)[0]);
  ASSERT_TRUE(file.ok());
  ASSERT_GT(file.value().pieces().size(), 2u);
  FileReader reader(file.value());
  ASSERT_TRUE(reader.openAll(FileReader::Mode::cached).ok());
  for (const uint64_t bytes : {uint64_t(1000), uint64_t(5000), uint64_t(whole.size())}) {
    std::string read(whole.size(), '\0');
    const auto out = std::as_writable_bytes(std::span(read));
    for (uint64_t begin = 0; begin < out.size(); begin += bytes)
      ASSERT_TRUE(reader.read(begin, out.subspan(begin, std::min(bytes, out.size() - begin))).ok());
    EXPECT_EQ(read, whole) << bytes;
  }
}

TEST_F(PartsFuzzTest, WeightsOfAFileThatIsGoneAreReadWhereTheyAreMapped) {
  for (const bool isGone : {false, true}) {
    before.write(path("gone.moeplan"));
    const auto artifact = open(path("gone.moeplan"));
    if (isGone)
      std::filesystem::remove(path("gone.moeplan"));
    const std::span<const std::byte> weight = artifact->weight(D::kUp);
    std::vector<std::byte> read(weight.size() - 3);
    ASSERT_TRUE(artifact->read(D::kUp, 3, read).ok());
    EXPECT_TRUE(std::equal(read.begin(), read.end(), weight.begin() + 3)) << isGone;
  }
}

TEST_F(PartsFuzzTest, EveryFieldOfAPartIsChecked) {
  const std::vector<std::string> paths = split(8192);
  ASSERT_GT(paths.size(), 2u);
  const std::string good = readFile(paths[1]);
  for (size_t at = 0; at < sizeof(PartHeader); ++at)
    for (const bool sealed : {false, true}) {
      for (const uint8_t bits : {0x01, 0x80, 0xff}) {
        std::string bad = good;
        bad[at] = char(uint8_t(bad[at]) ^ bits);
        if (sealed && at < offsetof(PartHeader, checksum)) {
          const uint64_t checksum = XXH3_64bits(bad.data(), offsetof(PartHeader, checksum));
          std::memcpy(bad.data() + offsetof(PartHeader, checksum), &checksum, sizeof(checksum));
        }
        writeFile(paths[1], bad);
        for (const std::string &path : {paths[0], paths[1]}) {
          const auto artifact = Artifact::open(path);
          ASSERT_FALSE(artifact.ok()) << at << " " << sealed << " " << path;
          expectOneLine(artifact.failure().message());
        }
      }
    }
  for (size_t length = 0; length < good.size(); length += length < 70 ? 1 : 509) {
    writeFile(paths[1], good.substr(0, length));
    EXPECT_FALSE(Artifact::open(paths[0]).ok()) << length;
  }
  writeFile(paths[1], good + "x");
  EXPECT_FALSE(Artifact::open(paths[0]).ok());
}

class PatchFuzzTest : public PartsFuzzTest {
protected:
  PatchFuzzTest() {
    ArtifactDraft after = before;
    after.segments[D::kUp].stored = std::string(after.segments[D::kUp].stored.size(), 'v');
    after.plans[0].name = "another";
    after.write(path("after.moeplan"));
    auto file = PendingFile::create(path("patch"));
    EXPECT_TRUE(file.ok());
    auto made =
        writePatch(*open(path("before.moeplan")), *open(path("after.moeplan")), file.value(), {});
    EXPECT_TRUE(made.ok());
    report = made.value();
    EXPECT_TRUE(file.value().commit().ok());
    good = readFile(path("patch"));
    expected = readFile(path("after.moeplan"));
  }
  /// What the patch makes; empty where it is refused, in one line.
  std::string apply() const {
    auto file = PendingFile::create(path("made.moeplan"));
    EXPECT_TRUE(file.ok());
    auto made = applyPatch(*open(path("before.moeplan")), path("patch"), file.value(), {});
    if (!made.ok()) {
      expectOneLine(made.failure().message());
      return {};
    }
    EXPECT_TRUE(file.value().commit().ok());
    return readFile(path("made.moeplan"));
  }
  /// Gives a patch the checksum that fits.
  static void seal(std::string &patch) {
    PatchHeader header{};
    std::memcpy(&header, patch.data(), sizeof(header));
    Hasher hasher;
    hasher.update(&header, offsetof(PatchHeader, checksum));
    const uint64_t hashed = header.head_bytes + header.segments * sizeof(uint32_t);
    hasher.update(patch.data() + sizeof(header),
                  std::min<uint64_t>(hashed, patch.size() - sizeof(header)));
    header.checksum = hasher.digest();
    std::memcpy(patch.data(), &header, sizeof(header));
  }

  PatchReport report;
  std::string good, expected;
};

TEST_F(PatchFuzzTest, MakesTheArtifactOfWhatIsThereAndWhatIsNew) {
  EXPECT_EQ(apply(), expected);
  EXPECT_EQ(report.added, 1u);
  EXPECT_EQ(report.copied, 4u);
}

TEST_F(PatchFuzzTest, ADamagedOneMakesNothingElse) {
  for (size_t length = 0; length < good.size(); length += length < 80 ? 1 : 37) {
    writeFile(path("patch"), good.substr(0, length));
    EXPECT_EQ(apply(), "") << length;
  }
  for (size_t at = 0; at < good.size(); at += at < 200 ? 1 : 7)
    for (const bool sealed : {false, true}) {
      std::string bad = good;
      bad[at] = char(bad[at] ^ 0x11);
      if (sealed)
        seal(bad);
      writeFile(path("patch"), bad);
      const std::string made = apply();
      // Sealed, it may be the patch to an artifact that nobody knows, but never one that is broken.
      if (sealed && !made.empty())
        EXPECT_EQ(open(path("made.moeplan"))->verify({}).message(), "") << at;
      else
        EXPECT_EQ(made, "") << at;
    }
}

} // namespace
} // namespace moeplan::testing
