// Files of calibration statistics, whole and damaged.
#include "compiler/calibrate/report.h"
#include "compiler/calibrate/statistics_writer.h"
#include "compiler/calibrate/weight_quantizer.h"
#include "statistics_header.h"
#include "tests/fuzz/mutation.h"
#include "tests/support/files.h"
#include "tests/unit/quantize/quantize_test.h"

#include <cstring>
#include <xxhash.h>

namespace moeplan::testing {
namespace {

using namespace compiler;

class StatisticsTest : public ::testing::Test {
protected:
  StatisticsTest() {
    head.compilerVersion = "1";
    head.checkpointDigest = "abc";
    head.textDigest = "def";
    head.context = 256;
    head.windows = 9;
    head.heldOutWindows = 1;
    head.tokens = 9 * 256;
    head.hiddenSize = 40;
    head.intermediateSize = 300;
    head.numLayers = 2;
    head.numExperts = 2;
    head.numExpertsPerToken = 1;
    // The second expert of layer 1 saw almost nothing.
    for (uint64_t tokens : {500, 600, 700, 127})
      experts.push_back({tokens, double(tokens) / 2, 40, 128});
  }

  std::vector<float> triangles(uint64_t index, bool hidden) const {
    const uint64_t columns = hidden ? 300 : 40, block = hidden ? 128 : 40;
    return activationMoments(columns, block, index * 2 + hidden);
  }
  std::string write() {
    auto file = llvm::cantFail(AtomicFile::create(path()));
    const uint64_t bytes = llvm::cantFail(
        writeStatistics(file, head, experts, sensitivities,
                        [&](uint64_t i, bool hidden) { return triangles(i, hidden); }));
    std::string content = readFile(path());
    EXPECT_EQ(content.size(), bytes);
    return content;
  }
  std::string path() const { return directory.path() / "x.moestats"; }
  std::unique_ptr<Statistics> open() { return llvm::cantFail(Statistics::open(path(), "abc")); }
  std::string refusal(const std::string &content, const std::string &digest = "abc") {
    writeFile(path(), content);
    auto statistics = Statistics::open(path(), digest);
    if (statistics)
      return "";
    const std::string message = llvm::toString(statistics.takeError());
    EXPECT_TRUE(message.starts_with(path() + ": ")) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message.substr(std::min(message.size(), path().size() + 2));
  }

  TemporaryDirectory directory;
  StatisticsHead head;
  std::vector<ExpertMoments> experts;
  std::vector<fb::Sensitivity> sensitivities;
};

TEST_F(StatisticsTest, WhatWasWrittenIsRead) {
  sensitivities.emplace_back(1, 0, 2, MOEPLAN_FORMAT_INT3G32, true, 1e-3, 2e-3, 3e-3, 4e-3);
  write();
  const auto statistics = open();
  EXPECT_EQ(statistics->metadata().tokens(), 9u * 256);
  EXPECT_EQ(statistics->expert(1, 0).tokens(), 700u);
  EXPECT_EQ(statistics->expert(0, 1).routing_weight(), 300.0);
  for (uint32_t layer : {0, 1})
    for (uint32_t e : {0, 1})
      for (Linear linear : {Linear::w1, Linear::w3, Linear::w2}) {
        const bool hidden = linear == Linear::w2;
        const SecondMoments m = statistics->moments({layer, e, linear});
        EXPECT_EQ(m.columns, hidden ? 300u : 40u);
        EXPECT_EQ(m.block, hidden ? 128u : 40u);
        EXPECT_EQ(std::vector<float>(m.values, m.values + momentCount(m.columns, m.block)),
                  triangles(layer * 2 + e, hidden));
      }
  ASSERT_EQ(statistics->metadata().sensitivities()->size(), 1u);
  EXPECT_EQ(statistics->metadata().sensitivities()->Get(0)->measured_increase(), 3e-3);
}

TEST_F(StatisticsTest, StatisticsOfAnotherCheckpointAreRefused) {
  const std::string content = write();
  EXPECT_EQ(refusal(content), "");
  EXPECT_EQ(refusal(content, ""), "");
  EXPECT_EQ(refusal(content, "other"),
            "was made from another checkpoint (digest abc, this one has other); run 'moeplanc "
            "calibrate' on this one");
}

TEST_F(StatisticsTest, AFileThatIsCutOrChangedAnywhereIsRefused) {
  const std::string content = write();
  for (size_t length = 0; length < content.size(); length += 1 + length / 7)
    EXPECT_NE(refusal(content.substr(0, length)), "") << length;
  EXPECT_NE(refusal(content + '\0'), "");
  EXPECT_EQ(refusal(std::string(100, 'x')), "not a file of calibration statistics");
  StatisticsHeader header;
  std::memcpy(&header, content.data(), sizeof(header));
  for (size_t i = 0; i < content.size(); i += i < sizeof(header) + header.metadata_size ? 1 : 97) {
    std::string damaged = content;
    damaged[i] = char(damaged[i] ^ 0x10);
    // Only the zeros between blocks of moments say nothing.
    if (i < sizeof(header) + header.metadata_size || content[i] != 0) {
      EXPECT_NE(refusal(damaged), "") << "byte " << i;
    }
  }
}

TEST_F(StatisticsTest, ForgedMetadataIsRefusedOrHarmless) {
  sensitivities.emplace_back(1, 0, 2, MOEPLAN_FORMAT_INT3G32, true, 1e-3, 2e-3, 3e-3, 4e-3);
  const std::string content = write();
  StatisticsHeader header;
  std::memcpy(&header, content.data(), sizeof(header));
  Mutator mutator(7);
  int accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string forged = content;
    mutator.mutate(forged, sizeof(header), sizeof(header) + header.metadata_size);
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, &header, offsetof(StatisticsHeader, checksum));
    XXH3_64bits_update(state, forged.data() + sizeof(header), header.metadata_size);
    StatisticsHeader sealed = header;
    sealed.checksum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    std::memcpy(forged.data(), &sealed, sizeof(sealed));
    writeFile(path(), forged);
    auto statistics = Statistics::open(path(), "");
    if (!statistics) {
      llvm::consumeError(statistics.takeError());
      continue;
    }
    // Whatever is accepted can be used.
    ++accepted;
    printStatistics(**statistics);
    statisticsJson(**statistics);
    (*statistics)->moments({1, 1, Linear::w2});
  }
  EXPECT_GT(accepted, 0);
}

TEST_F(StatisticsTest, ExpertsThatWereHardlyReachedAreQuantisedWithoutAndListed) {
  write();
  const auto statistics = open();
  EXPECT_EQ(hardlyReachedExperts(*statistics), std::vector<std::string>{"layers.1.experts.1"});

  Quantization weight(weightLikeNumbers(16 * 40, 5), 16, 40);
  const FormatInfo &format = *findFormat(std::string_view("int3g32"));
  auto bytesOf = [&](const Statistics *known, const char *name, const char *choice) {
    WeightQuantizer quantizer(known, llvm::cantFail(QuantizerChoice::parse(choice)), 1);
    std::vector<uint8_t> bytes(*formatBytes(format, 16, 40));
    EXPECT_FALSE(quantizer.quantize(name, weight.view(), format, bytes));
    const bool listed = quantizer.hardlyReached().contains("layers.1.experts.1");
    EXPECT_EQ(listed, known && std::string(name) == "layers.1.experts.1.w1") << name;
    return bytes;
  };
  for (const char *choice : {"", "gptq", "descent"}) {
    const auto without = bytesOf(nullptr, "layers.1.experts.1.w1", "");
    EXPECT_EQ(bytesOf(statistics.get(), "layers.1.experts.1.w1", choice), without) << choice;
    EXPECT_EQ(bytesOf(statistics.get(), "layers.0.attention.q", choice), without) << choice;
    EXPECT_NE(bytesOf(statistics.get(), "layers.1.experts.0.w1", choice), without) << choice;
  }
}

TEST(QuantizerChoiceTest, IsByFormatOrForAll) {
  auto name = [](const char *text, const char *format) {
    const QuantizerChoice choice = llvm::cantFail(QuantizerChoice::parse(text));
    const QuantizerInfo *found = choice.find(*findFormat(std::string_view(format)));
    return found ? std::string(found->name) : "default";
  };
  EXPECT_EQ(name("", "int4g32"), "default");
  EXPECT_EQ(name("hqq", "int4g32"), "hqq");
  EXPECT_EQ(name("int4=gptq,int2g64=rtn", "int4g128"), "gptq");
  EXPECT_EQ(name("int4=gptq,int2g64=rtn", "int2g64"), "rtn");
  EXPECT_EQ(name("int4=gptq,int2g64=rtn", "int2g32"), "default");
  EXPECT_EQ(name("rtn,int3=descent", "int3g32"), "descent");
  EXPECT_EQ(name("rtn,int3=descent", "int8g32"), "rtn");
  auto refused = [](const char *text) {
    auto choice = QuantizerChoice::parse(text);
    return choice ? std::string() : llvm::toString(choice.takeError());
  };
  EXPECT_EQ(refused("awq"),
            "unknown quantiser 'awq' (known: 'rtn', 'imatrix', 'gptq', 'descent', 'hqq')");
  EXPECT_EQ(refused("bf16=rtn"), "--quantizer: 'bf16' is no format that is quantised");
  EXPECT_EQ(llvm::cantFail(QuantizerChoice::parse("rtn,hqq")).needsStatistics(), nullptr);
  EXPECT_EQ(llvm::cantFail(QuantizerChoice::parse("int2=imatrix")).needsStatistics()->name,
            "imatrix");
}

TEST(ExpertLinearTest, NamesAreParsedAndMade) {
  const auto linear = ExpertLinear::parse("layers.12.experts.3.w2");
  ASSERT_TRUE(linear);
  EXPECT_EQ(linear->layer, 12u);
  EXPECT_EQ(linear->expert, 3u);
  EXPECT_EQ(linear->linear, Linear::w2);
  EXPECT_EQ(linear->name(), "layers.12.experts.3.w2");
  for (const char *other : {"layers.1.attention.q", "layers.1.experts.2", "layers.1.experts.2.w4",
                            "layers.x.experts.2.w1", "embedding", "layers.1.experts.2.w1.x"})
    EXPECT_FALSE(ExpertLinear::parse(other)) << other;
}

TEST(RankCorrelationTest, IsSpearmans) {
  EXPECT_NEAR(*rankCorrelation({1, 2, 3, 4}, {10, 20, 30, 400}), 1, 1e-12);
  EXPECT_NEAR(*rankCorrelation({1, 2, 3, 4}, {4, 3, 2, 1}), -1, 1e-12);
  // 1 - 6 * sum d^2 / (n (n^2 - 1)) with d = (0, -2, 1, 1, 0): 0.7.
  EXPECT_NEAR(*rankCorrelation({1, 2, 3, 4, 5}, {1, 4, 2, 3, 5}), 0.7, 1e-12);
  // Ties share their mean rank: ranks (1.5, 1.5, 3) and (1, 2, 3).
  EXPECT_NEAR(*rankCorrelation({5, 5, 6}, {1, 2, 3}), 1.5 / std::sqrt(1.5 * 2), 1e-12);
  EXPECT_FALSE(rankCorrelation({1}, {1}));
  EXPECT_FALSE(rankCorrelation({1, 2}, {1}));
  EXPECT_FALSE(rankCorrelation({1, 1, 1}, {1, 2, 3}));
}

} // namespace
} // namespace moeplan::testing
