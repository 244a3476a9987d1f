// Weights brought into memory ahead of their use.
#include "runtime/artifact/artifact.h"
#include "tests/support/api.h"
#include "tests/support/compile.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>

namespace moeplan::testing {
namespace {

namespace fs = std::filesystem;

class WeightLoaderTest : public ::testing::Test {
protected:
  static void SetUpTestSuite() {
    directory = new TemporaryDirectory();
    writeFile(directory->path() / "policy.toml", R"(
[[tier]]
name = "wide"
pin = [{ experts = "layers.0.*", format = "int8g64" }, { experts = "*", format = "bf16" }]
[[tier]]
name = "narrow"
pin = [{ experts = "layers.0.*", format = "int8g64" }, { experts = "*", format = "int4g64" }]
)");
    compileArtifact(kTinyMixtral, model(), directory->path() / "policy.toml");
  }
  static void TearDownTestSuite() {
    delete directory;
    directory = nullptr;
  }
  static fs::path model() { return directory->path() / "model.moeplan"; }

  void SetUp() override { artifact = open(model()); }
  static std::unique_ptr<Artifact> open(const fs::path &path) {
    auto opened = Artifact::open(path);
    EXPECT_TRUE(opened.ok()) << opened.failure().message();
    return std::move(opened).value();
  }
  const fb::Plan *plan(const char *name) const { return artifact->plan(name).value(); }
  std::string nameOf(uint32_t segment) const {
    return artifact->metadata().segments()->Get(segment)->name()->str();
  }
  bool isExpert(uint32_t segment) const {
    return nameOf(segment).find(".experts.") != std::string::npos;
  }
  std::set<uint32_t> weights() const {
    std::set<uint32_t> all;
    for (uint32_t i = 0; i < artifact->metadata().segments()->size(); ++i)
      if (artifact->metadata().segments()->Get(i)->kind() == fb::SegmentKind::weight)
        all.insert(i);
    return all;
  }
  /// Which weights are no longer where the file is mapped; all must hold the same as there.
  std::set<uint32_t> moved() const {
    const auto fresh = open(model());
    std::set<uint32_t> result;
    for (uint32_t segment : weights()) {
      const auto bytes = artifact->weight(segment), expected = fresh->weight(segment);
      EXPECT_TRUE(std::ranges::equal(bytes, expected)) << nameOf(segment);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 4096, 0u) << nameOf(segment);
      if (bytes.data() - mapped.at(segment).data() != 0)
        result.insert(segment);
    }
    return result;
  }
  Status load(LoadOptions options) {
    mapped.clear();
    for (uint32_t segment : weights())
      mapped[segment] = artifact->weight(segment);
    options.threads = 3;
    return artifact->loadWeights(options);
  }

  static TemporaryDirectory *directory;
  std::unique_ptr<Artifact> artifact;
  std::map<uint32_t, std::span<const std::byte>> mapped;
};
TemporaryDirectory *WeightLoaderTest::directory = nullptr;

TEST_F(WeightLoaderTest, TheOrderIsThatOfTheProgram) {
  const std::vector<uint32_t> order = weightsInProgramOrder(artifact->metadata(), plan("narrow"));
  EXPECT_EQ(std::set<uint32_t>(order.begin(), order.end()).size(), order.size());
  EXPECT_EQ(nameOf(order.front()).find("embed"), 0u) << nameOf(order.front());
  int last = -1;
  for (uint32_t segment : order) {
    const std::string name = nameOf(segment);
    int layer = 1 << 20; // behind the layers
    if (name.starts_with("layers."))
      std::from_chars(name.data() + 7, name.data() + name.size(), layer);
    else if (segment == order.front())
      layer = -1;
    EXPECT_GE(layer, last) << name;
    last = layer;
  }
  const std::vector<uint32_t> all = weightsInProgramOrder(artifact->metadata(), nullptr);
  EXPECT_EQ(std::set<uint32_t>(all.begin(), all.end()), weights());
  EXPECT_LT(order.size(), all.size());
}

TEST_F(WeightLoaderTest, BothWaysOfReadingGiveTheBytesOfTheFile) {
  for (const LoadMode mode : {LoadMode::read, LoadMode::direct})
    for (const bool hugePages : {false, true}) {
      artifact = open(model());
      const Status status = load({.experts = mode, .others = mode, .hugePages = hugePages});
      if (mode == LoadMode::direct && status.code() == MOEPLAN_UNSUPPORTED)
        GTEST_SKIP() << "no direct reads here: " << status.message();
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(moved(), weights());
      EXPECT_EQ(artifact->verify({}).message(), "");
    }
}

TEST_F(WeightLoaderTest, AClassOrAPlanMayStayMapped) {
  ASSERT_TRUE(load({.experts = LoadMode::read}).ok());
  std::set<uint32_t> experts;
  for (uint32_t segment : weights())
    if (isExpert(segment))
      experts.insert(segment);
  EXPECT_EQ(moved(), experts);

  artifact = open(model());
  ASSERT_TRUE(
      load({.experts = LoadMode::read, .others = LoadMode::read, .plan = plan("wide")}).ok());
  const std::vector<uint32_t> wide = weightsInProgramOrder(artifact->metadata(), plan("wide"));
  EXPECT_EQ(moved(), std::set<uint32_t>(wide.begin(), wide.end()));
}

TEST_F(WeightLoaderTest, PreloadingMovesNothing) {
  uint64_t seen = 0, total = 0;
  ASSERT_TRUE(load({.preload = true,
                    .progress =
                        [&](uint64_t done, uint64_t all) {
                          EXPECT_GE(done, seen);
                          seen = done;
                          total = all;
                          return true;
                        }})
                  .ok());
  EXPECT_EQ(moved(), std::set<uint32_t>());
  uint64_t bytes = 0;
  for (uint32_t segment : weights())
    bytes += artifact->weight(segment).size();
  EXPECT_EQ(total, bytes);
  EXPECT_EQ(seen, bytes);
}

TEST_F(WeightLoaderTest, AFailureLeavesTheArtifactAsItWas) {
  EXPECT_EQ(load({.experts = LoadMode::read, .progress = [](uint64_t, uint64_t) { return false; }})
                .code(),
            MOEPLAN_CANCELLED);
  EXPECT_EQ(moved(), std::set<uint32_t>());

  const fs::path copy = directory->path() / "copy.moeplan";
  fs::copy_file(model(), copy);
  artifact = open(copy);
  fs::rename(copy, directory->path() / "renamed.moeplan");
  EXPECT_EQ(load({.experts = LoadMode::read}).code(), MOEPLAN_IO_ERROR);
  fs::copy_file(model(), copy);
  Status replaced = load({.experts = LoadMode::read});
  EXPECT_NE(replaced.message().find("another file has taken its place"), std::string::npos)
      << replaced.message();
  EXPECT_EQ(moved(), std::set<uint32_t>());
}

TEST_F(WeightLoaderTest, AFileThatHasBecomeShorterIsAnError) {
  const fs::path copy = directory->path() / "shorter.moeplan";
  fs::copy_file(model(), copy);
  artifact = open(copy);
  fs::resize_file(copy, artifact->header().segment_base);
  const Status status = artifact->loadWeights({.experts = LoadMode::read});
  EXPECT_EQ(status.code(), MOEPLAN_IO_ERROR);
  EXPECT_NE(status.message().find("shorter.moeplan: cannot read the file"), std::string::npos)
      << status.message();
}

TEST_F(WeightLoaderTest, TheModelComputesTheSameWhereverItsWeightsLie) {
  const auto logits = [](auto &&loaded) {
    const ArtifactHandle handle = openArtifact(model());
    loaded(handle.get());
    const SessionHandle session = createSession(handle.get(), {.plan = "narrow", .threads = 2});
    return logitsOf(session.get(), std::vector<int32_t>{1, 5, 9, 2}, 2048);
  };
  const std::vector<float> expected = logits([](moeplan_artifact *) {});
  const std::vector<float> read = logits([](moeplan_artifact *handle) {
    moeplan_load_options options;
    moeplan_load_options_init(&options);
    options.experts = options.others = MOEPLAN_LOAD_READ;
    options.plan = "narrow";
    EXPECT_EQ(take(moeplan_artifact_load(handle, &options)).message, "ok");
    options.plan = "no";
    EXPECT_EQ(take(moeplan_artifact_load(handle, &options)).code, MOEPLAN_NOT_FOUND);
    options.plan = nullptr;
    const int none = 7;
    std::memcpy(&options.experts, &none, sizeof(none));
    EXPECT_EQ(take(moeplan_artifact_load(handle, &options)).code, MOEPLAN_INVALID_ARGUMENT);
    EXPECT_EQ(take(moeplan_artifact_load(nullptr, &options)).code, MOEPLAN_INVALID_ARGUMENT);
    EXPECT_EQ(take(moeplan_artifact_load(handle, nullptr)).message, "ok");
  });
  EXPECT_EQ(read, expected);
}

} // namespace
} // namespace moeplan::testing
