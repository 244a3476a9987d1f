#include "runtime/text/tokenizer.h"
#include "runtime/text/utf8.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <iterator>
#include <random>

namespace {

using moeplan::TextDecoder;
using moeplan::Tokenizer;

constexpr uint32_t vocabSize = 2048;
constexpr int32_t bos = 1;
constexpr int32_t eos = 2;
constexpr int32_t firstByte = 3; // ids of the byte tokens <0x00> to <0xFF>

std::string readFile(const std::string &name) {
  std::ifstream file(std::string(MOEPLAN_SOURCE_DIR) + "/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

moeplan::Result<std::unique_ptr<Tokenizer>> load(const std::string &model, uint32_t vocab) {
  return Tokenizer::create(std::as_bytes(std::span(model)), vocab);
}

/// The tokenizer of tiny-mixtral, for a model whose vocabulary has 8 ids of padding.
const Tokenizer &tokenizer() {
  static const std::unique_ptr<Tokenizer> instance =
      load(readFile("examples/tiny-mixtral/tokenizer.model"), vocabSize + 8).value();
  return *instance;
}

std::vector<int32_t> encode(std::string_view text, int32_t first = -1) {
  auto tokens = tokenizer().encode(text, first);
  EXPECT_TRUE(tokens.ok());
  return tokens.value();
}

std::vector<int32_t> bytes(std::string_view text) {
  std::vector<int32_t> tokens;
  for (unsigned char c : text)
    tokens.push_back(firstByte + c);
  return tokens;
}

/// Text as it comes from a stream. Each part must be whole UTF-8.
std::string stream(TextDecoder &decoder, const std::vector<int32_t> &tokens) {
  std::string text;
  for (int32_t token : tokens) {
    auto part = decoder.push(token);
    EXPECT_TRUE(part.ok());
    EXPECT_EQ(moeplan::findInvalidUtf8(part.value()), std::string_view::npos);
    text += part.value();
  }
  text += decoder.finish();
  return text;
}

std::string stream(const std::vector<int32_t> &tokens) {
  TextDecoder decoder(tokenizer());
  return stream(decoder, tokens);
}

std::string decode(const std::vector<int32_t> &tokens) {
  return tokenizer().decode(tokens).value();
}

TEST(Tokenizer, GoldenPromptsGiveGoldenIds) {
  for (const auto &entry : nlohmann::json::parse(readFile("tests/golden/prompts.json"))) {
    const auto prompt = entry.at("prompt").get<std::string>();
    EXPECT_EQ(encode(prompt, bos), entry.at("ids").get<std::vector<int32_t>>()) << prompt;
  }
}

TEST(Tokenizer, TextComesBackFromItsTokens) {
  using namespace std::string_literals;
  for (const std::string &text : {"It was"s, "  two spaces"s, "a\n\nb"s, "日本 語 🙂"s,
                                  "nul\0inside"s, "</s><s><0x41>"s, ""s})
    EXPECT_EQ(decode(encode(text, bos)), text);
}

TEST(Tokenizer, ControlTokensInTextAreText) {
  for (int32_t token : encode("<s></s>"))
    EXPECT_NE(tokenizer().kind(token), Tokenizer::TokenKind::control);
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsOffset) {
  for (const char *text : {"ok \xff", "ok \xe6\x97", "ok \xed\xa0\x80", "ok \xc0\x80"}) {
    auto tokens = tokenizer().encode(text, bos);
    ASSERT_FALSE(tokens.ok());
    EXPECT_EQ(tokens.failure().code(), MOEPLAN_INVALID_ARGUMENT);
    EXPECT_EQ(tokens.failure().message(), "text is not UTF-8: bad byte at offset 3");
  }
}

TEST(Tokenizer, CorruptModelIsRefused) {
  const std::string model = readFile("examples/tiny-mixtral/tokenizer.model");
  EXPECT_FALSE(load("", vocabSize).ok());
  EXPECT_FALSE(load("not a model", vocabSize).ok());
  EXPECT_FALSE(load(model.substr(0, model.size() / 2), vocabSize).ok());
  EXPECT_EQ(load("", vocabSize).failure().code(), MOEPLAN_CORRUPT);
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = model;
    damaged[random() % 2000] = static_cast<char>(random());
    if (auto result = load(damaged, vocabSize); result.ok()) {
      auto tokens = result.value()->encode("Some text, 日本.", bos);
      EXPECT_TRUE(!tokens.ok() || result.value()->decode(tokens.value()).ok());
    }
  }
}

TEST(Tokenizer, MorePiecesThanTheVocabularyAreRefused) {
  const std::string model = readFile("examples/tiny-mixtral/tokenizer.model");
  auto result = load(model, vocabSize - 1);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.failure().code(), MOEPLAN_CORRUPT);
  EXPECT_NE(result.failure().message().find("2048 pieces"), std::string::npos);
}

TEST(TextDecoder, StreamedGoldenTextEqualsWholeText) {
  for (const auto &entry : nlohmann::json::parse(readFile("tests/golden/prompts.json"))) {
    auto tokens = entry.at("greedy").get<std::vector<int32_t>>();
    EXPECT_EQ(stream(tokens), entry.at("greedy_text").get<std::string>());
    auto all = entry.at("ids").get<std::vector<int32_t>>();
    all.insert(all.end(), tokens.begin(), tokens.end());
    EXPECT_EQ(stream(all), decode(all));
    EXPECT_EQ(stream(all).find(entry.at("prompt").get<std::string>()), 0U);
  }
}

TEST(TextDecoder, AnySequenceStreamsToItsWholeText) {
  std::mt19937 random(5);
  TextDecoder decoder(tokenizer());
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> tokens(1 + random() % 12);
    for (int32_t &token : tokens) {
      // Half of them bytes and control tokens, so that unfinished characters are everywhere.
      const bool special = random() % 2 == 0;
      token = static_cast<int32_t>(random() % (special ? 260 : vocabSize + 8));
    }
    ASSERT_EQ(stream(decoder, tokens), decode(tokens)) << ::testing::PrintToString(tokens);
  }
}

TEST(TextDecoder, SpacesThatOpenATextStreamLikeTheWholeText) {
  const int32_t space = encode("日").front(); // "▁" alone, then bytes
  const int32_t word = encode("a").front();   // "▁a"
  for (const std::vector<int32_t> &tokens :
       {std::vector{space, word}, {bos, space, space, word}, {space, bos, word}, {word, word}})
    EXPECT_EQ(stream(tokens), decode(tokens));
  EXPECT_EQ(stream({bos, word, word}), "a a");
}

TEST(TextDecoder, CharacterComesOutWithItsLastByte) {
  TextDecoder decoder(tokenizer());
  EXPECT_EQ(decoder.push(firstByte + 0xe6).value(), "");
  EXPECT_EQ(decoder.push(firstByte + 0x97).value(), "");
  EXPECT_EQ(decoder.push(firstByte + 0xa5).value(), "日");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(TextDecoder, UnfinishedCharacterBecomesReplacements) {
  EXPECT_EQ(stream(bytes("\xe6\x97")), "\ufffd\ufffd");
  EXPECT_EQ(stream(bytes("\xe6\x97"
                         "A")),
            "\ufffd\ufffdA");
  EXPECT_EQ(stream(bytes("\xff\xf0\x9f\x99\x82")), "\ufffd🙂");
}

TEST(TextDecoder, ControlAndPaddingHaveNoText) {
  EXPECT_EQ(stream({bos, eos, bos, vocabSize, vocabSize + 7}), "");
}

TEST(TextDecoder, NulIsText) { EXPECT_EQ(stream({firstByte}), std::string(1, '\0')); }

TEST(TextDecoder, OutOfRangeIdIsRefusedAndChangesNothing) {
  TextDecoder decoder(tokenizer());
  EXPECT_EQ(decoder.push(firstByte + 0xe6).value(), "");
  for (int32_t token : {-1, static_cast<int32_t>(vocabSize) + 8, INT32_MAX, INT32_MIN}) {
    auto part = decoder.push(token);
    ASSERT_FALSE(part.ok());
    EXPECT_EQ(part.failure().code(), MOEPLAN_INVALID_ARGUMENT);
  }
  EXPECT_EQ(decoder.push(firstByte + 0x97).value(), "");
  EXPECT_EQ(decoder.push(firstByte + 0xa5).value(), "日");
}

TEST(TextDecoder, StartsAnewAfterFinish) {
  TextDecoder decoder(tokenizer());
  const auto tokens = encode("It was");
  EXPECT_EQ(stream(decoder, tokens), "It was");
  EXPECT_EQ(stream(decoder, tokens), "It was");
}

} // namespace
