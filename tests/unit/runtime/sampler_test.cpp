#include "runtime/session/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

namespace {

using moeplan::RandomGenerator;
using moeplan::Sampler;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float notANumber = std::numeric_limits<float>::quiet_NaN();

moeplan_sampler_options greedy() {
  return {.struct_size = sizeof(moeplan_sampler_options),
          .temperature = 0,
          .top_k = 0,
          .top_p = 1,
          .repetition_penalty = 1,
          .repetition_window = 64,
          .seed = 7};
}

moeplan_sampler_options drawing() {
  moeplan_sampler_options options = greedy();
  options.temperature = 1;
  return options;
}

Sampler make(const moeplan_sampler_options &options, size_t vocabSize) {
  auto sampler = Sampler::create(options, static_cast<uint32_t>(vocabSize));
  EXPECT_TRUE(sampler.ok());
  return std::move(sampler).value();
}

std::vector<int32_t> draws(Sampler &sampler, const std::vector<float> &logits, size_t count) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < count; ++i)
    tokens.push_back(sampler.sample(logits.data()));
  return tokens;
}

std::map<int32_t, int> histogram(const moeplan_sampler_options &options,
                                 const std::vector<float> &logits, size_t count = 4000) {
  Sampler sampler = make(options, logits.size());
  std::map<int32_t, int> result;
  for (int32_t token : draws(sampler, logits, count))
    ++result[token];
  return result;
}

std::vector<float> logProbabilities(std::vector<float> probabilities) {
  for (float &p : probabilities)
    p = std::log(p);
  return probabilities;
}

TEST(RandomGenerator, EqualsPublishedAlgorithm) {
  // First words of splitmix64(0) are e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f,
  // f88bb8a8724c81ec; xoshiro256** of that state starts with rotl(s1 * 5, 7) * 9.
  RandomGenerator random(0);
  EXPECT_EQ(random.next(), 0x99ec5f36cb75f2b4u);
  EXPECT_EQ(random.next(), 0xbf6e1f784956452au);
  EXPECT_EQ(random.next(), 0x1a5f849d4933e6e0u);
}

TEST(RandomGenerator, UniformStaysUnderOne) {
  RandomGenerator random(3);
  double sum = 0;
  for (int i = 0; i < 10000; ++i) {
    const double value = random.nextUniform();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
}

TEST(Sampler, GreedyTakesLargestLogit) {
  Sampler sampler = make(greedy(), 4);
  EXPECT_EQ(draws(sampler, {-3, 5, 4, -infinity}, 1).front(), 1);
}

TEST(Sampler, GreedyTakesLowestIdOnTie) {
  Sampler sampler = make(greedy(), 4);
  EXPECT_EQ(draws(sampler, {1, 2, 2, 2}, 1).front(), 1);
}

TEST(Sampler, NanIsNeverChosen) {
  const std::vector<float> logits = {notANumber, 1, notANumber, 0.5F};
  Sampler sampler = make(greedy(), 4);
  EXPECT_EQ(sampler.sample(logits.data()), 1);
  for (const auto &[token, count] : histogram(drawing(), logits))
    EXPECT_TRUE(token == 1 || token == 3);
}

TEST(Sampler, TokenIsInRangeWhateverTheLogits) {
  const std::vector<std::vector<float>> hopeless = {{notANumber, notANumber, notANumber},
                                                    {-infinity, -infinity, -infinity},
                                                    {infinity, infinity, notANumber},
                                                    {infinity, -infinity, notANumber},
                                                    {3e38F, -3e38F, 3e38F},
                                                    {1e-45F, 0, -0.0F}};
  for (float temperature : {0.0F, 1e-38F, 1.0F, 1e38F})
    for (uint32_t topK : {0U, 1U, 2U, 9U})
      for (float topP : {1e-30F, 0.5F, 1.0F})
        for (float penalty : {1e-30F, 1.0F, 1e30F})
          for (const auto &logits : hopeless) {
            moeplan_sampler_options options = greedy();
            options.temperature = temperature;
            options.top_k = topK;
            options.top_p = topP;
            options.repetition_penalty = penalty;
            Sampler sampler = make(options, logits.size());
            for (int32_t token : draws(sampler, logits, 8)) {
              ASSERT_GE(token, 0);
              ASSERT_LT(token, 3);
            }
          }
}

TEST(Sampler, DrawsInProportionToProbability) {
  auto counts = histogram(drawing(), logProbabilities({0.5F, 0.2F, 0.3F}), 20000);
  EXPECT_NEAR(counts[0] / 20000.0, 0.5, 0.015);
  EXPECT_NEAR(counts[1] / 20000.0, 0.2, 0.015);
  EXPECT_NEAR(counts[2] / 20000.0, 0.3, 0.015);
}

TEST(Sampler, HighTemperatureFlattens) {
  moeplan_sampler_options options = drawing();
  options.temperature = 2; // probabilities go with their square roots: 0.9, 0.1 become 0.75, 0.25
  auto counts = histogram(options, logProbabilities({0.9F, 0.1F}), 20000);
  EXPECT_NEAR(counts[1] / 20000.0, 0.25, 0.015);
}

TEST(Sampler, TinyTemperatureIsGreedy) {
  moeplan_sampler_options options = drawing();
  options.temperature = 1e-30F;
  EXPECT_EQ(histogram(options, {1, 3, 2}), (std::map<int32_t, int>{{1, 4000}}));
}

TEST(Sampler, SameSeedSameTokens) {
  const std::vector<float> logits(50, 0.0F);
  Sampler first = make(drawing(), 50);
  Sampler second = make(drawing(), 50);
  moeplan_sampler_options other = drawing();
  other.seed = 8;
  Sampler third = make(other, 50);
  const auto tokens = draws(first, logits, 40);
  EXPECT_EQ(tokens, draws(second, logits, 40));
  EXPECT_NE(tokens, draws(third, logits, 40));
}

TEST(Sampler, TopKKeepsMostLikelyAndLowestIdOnTie) {
  moeplan_sampler_options options = drawing();
  options.top_k = 3;
  auto counts = histogram(options, {1, 2, 1, 1, 2, 1});
  EXPECT_EQ(counts.size(), 3U);
  EXPECT_TRUE(counts.contains(0) && counts.contains(1) && counts.contains(4));
}

TEST(Sampler, TopKOfOneIsGreedy) {
  moeplan_sampler_options options = drawing();
  options.top_k = 1;
  EXPECT_EQ(histogram(options, {1, 3, 2}), (std::map<int32_t, int>{{1, 4000}}));
}

TEST(Sampler, TopPKeepsSmallestSetWithMass) {
  const auto logits = logProbabilities({0.1F, 0.4F, 0.2F, 0.3F});
  const std::map<float, std::vector<int32_t>> nuclei = {
      {0.01F, {1}}, {0.39F, {1}}, {0.41F, {1, 3}}, {0.69F, {1, 3}}, {0.71F, {1, 2, 3}}};
  for (const auto &[topP, nucleus] : nuclei) {
    moeplan_sampler_options options = drawing();
    options.top_p = topP;
    std::vector<int32_t> drawn;
    for (const auto &[token, count] : histogram(options, logits))
      drawn.push_back(token);
    EXPECT_EQ(drawn, nucleus) << topP;
  }
}

TEST(Sampler, TopPReachesBeyondTheFirstSortedBlock) {
  moeplan_sampler_options options = drawing();
  options.top_p = 0.5F;
  // A thousand equally likely tokens: the nucleus is the 500 of the lowest ids.
  for (const auto &[token, count] : histogram(options, std::vector<float>(1000, 0.0F)))
    EXPECT_LT(token, 501);
  EXPECT_GT(histogram(options, std::vector<float>(1000, 0.0F)).size(), 450U);
}

TEST(Sampler, TopPAppliesToWhatTopKKept) {
  moeplan_sampler_options options = drawing();
  options.top_k = 2; // 0.4 and 0.3 become 0.57 and 0.43
  options.top_p = 0.5F;
  EXPECT_EQ(histogram(options, logProbabilities({0.1F, 0.4F, 0.2F, 0.3F})).size(), 1U);
  options.top_p = 0.6F;
  EXPECT_EQ(histogram(options, logProbabilities({0.1F, 0.4F, 0.2F, 0.3F})).size(), 2U);
}

TEST(Sampler, PenaltyDividesPositiveAndMultipliesNegativeLogits) {
  moeplan_sampler_options options = greedy();
  options.repetition_penalty = 2;
  Sampler positive = make(options, 2);
  EXPECT_EQ(draws(positive, {3, 2}, 2), (std::vector<int32_t>{0, 1})); // 3 / 2 < 2
  Sampler negative = make(options, 2);
  EXPECT_EQ(draws(negative, {-1, -1.5F}, 2), (std::vector<int32_t>{0, 1})); // -1 * 2 < -1.5
}

TEST(Sampler, PenaltyCountsATokenOnce) {
  moeplan_sampler_options options = greedy();
  options.repetition_penalty = 1.5F;
  Sampler sampler = make(options, 2);
  for (int i = 0; i < 5; ++i)
    sampler.observe(0);
  EXPECT_EQ(draws(sampler, {3, 1.9F}, 1).front(), 0); // 3 / 1.5 > 1.9
}

TEST(Sampler, PenaltyForgetsWhatLeftTheWindow) {
  moeplan_sampler_options options = greedy();
  options.repetition_penalty = 10;
  options.repetition_window = 2;
  Sampler sampler = make(options, 3);
  EXPECT_EQ(draws(sampler, {3, 2, 1}, 6), (std::vector<int32_t>{0, 1, 2, 0, 1, 2}));
}

TEST(Sampler, WindowOfZeroPenalisesNothing) {
  moeplan_sampler_options options = greedy();
  options.repetition_penalty = 10;
  options.repetition_window = 0;
  Sampler sampler = make(options, 3);
  EXPECT_EQ(draws(sampler, {3, 2, 1}, 3), (std::vector<int32_t>{0, 0, 0}));
}

TEST(Sampler, PromptTokensArePenalised) {
  moeplan_sampler_options options = greedy();
  options.repetition_penalty = 10;
  Sampler sampler = make(options, 3);
  sampler.observe(0);
  sampler.observe(-1); // ignored
  sampler.observe(3);  // ignored
  EXPECT_EQ(draws(sampler, {3, 2, 1}, 1).front(), 1);
}

TEST(Sampler, OptionsOutsideTheirRangeAreRefusedByName) {
  auto expectRefused = [](auto change, const char *name) {
    moeplan_sampler_options options = greedy();
    change(options);
    auto sampler = Sampler::create(options, 8);
    ASSERT_FALSE(sampler.ok()) << name;
    EXPECT_EQ(sampler.failure().code(), MOEPLAN_INVALID_ARGUMENT);
    EXPECT_EQ(sampler.failure().message().find(name), 0U) << sampler.failure().message();
  };
  for (float value : {-1.0F, notANumber, infinity})
    expectRefused([=](auto &options) { options.temperature = value; }, "temperature");
  for (float value : {-1.0F, 0.0F, 1.5F, notANumber})
    expectRefused([=](auto &options) { options.top_p = value; }, "top_p");
  for (float value : {-1.0F, 0.0F, notANumber, infinity})
    expectRefused([=](auto &options) { options.repetition_penalty = value; }, "repetition_penalty");
  EXPECT_FALSE(Sampler::create(greedy(), 0).ok());
  EXPECT_FALSE(Sampler::create(greedy(), 0x80000000U).ok());
}

/// The `count` largest logits, as a device finds them.
std::vector<moeplan_candidate> largest(const std::vector<float> &logits, size_t count) {
  std::vector<moeplan_candidate> all;
  for (size_t i = 0; i < logits.size(); ++i)
    all.push_back({logits[i], static_cast<int32_t>(i)});
  const auto value = [](const moeplan_candidate &c) {
    return std::isnan(c.logit) ? -infinity : c.logit;
  };
  std::stable_sort(all.begin(), all.end(),
                   [&](const auto &a, const auto &b) { return value(a) > value(b); });
  all.resize(std::min(count, all.size()));
  return all;
}

TEST(SamplerTest, TheLargestLogitsAreEnough) {
  constexpr size_t kVocabulary = 300, kCount = 64;
  RandomGenerator random(3);
  int compared = 0;
  for (int trial = 0; trial < 400; ++trial) {
    moeplan_sampler_options options = greedy();
    options.seed = random.next();
    options.temperature = trial % 4 ? static_cast<float>(0.2 + random.nextUniform()) : 0;
    options.top_k = static_cast<uint32_t>(random.next() % (kCount + 1));
    options.top_p = trial % 3 ? 1 : static_cast<float>(0.3 + 0.6 * random.nextUniform());
    options.repetition_penalty = trial % 5 ? 1 : 1.5f;
    options.repetition_window = static_cast<uint32_t>(random.next() % 40);
    Sampler whole = make(options, kVocabulary), part = make(options, kVocabulary);
    if (!part.samplesFrom(kCount))
      continue;
    ++compared;
    for (int step = 0; step < 20; ++step) {
      std::vector<float> logits(kVocabulary);
      for (float &logit : logits) { // few values: many ties
        logit = static_cast<float>(static_cast<int>(random.next() % 41) - 30) / 4;
        if (random.next() % 50 == 0)
          logit = random.next() % 2 ? notANumber : -infinity;
        if (trial % 7 == 0)
          logit = step % 2 ? -infinity : std::min(logit, 0.0f);
      }
      if (trial % 11 == 0)
        logits[random.next() % kVocabulary] = infinity;
      ASSERT_EQ(part.sample(largest(logits, kCount)), whole.sample(logits.data()))
          << "trial " << trial << " step " << step;
    }
  }
  EXPECT_GT(compared, 200);
}

TEST(SamplerTest, SaysWhenTheLargestLogitsAreNotEnough) {
  const auto enough = [](auto &&change, size_t vocabSize = 1000) {
    moeplan_sampler_options options = drawing();
    options.top_k = 40;
    change(options);
    return make(options, vocabSize).samplesFrom(64);
  };
  EXPECT_TRUE(enough([](auto &) {}));
  EXPECT_TRUE(enough([](auto &o) { o.temperature = 0, o.top_k = 0; }));
  EXPECT_TRUE(enough([](auto &o) { o.top_k = 64; }));
  EXPECT_FALSE(enough([](auto &o) { o.top_k = 65; }));
  EXPECT_FALSE(enough([](auto &o) { o.top_k = 0; }));
  EXPECT_FALSE(enough([](auto &) {}, 40)) << "nothing is kept from it: in the order of ids";
  EXPECT_TRUE(enough([](auto &o) { o.repetition_penalty = 2, o.repetition_window = 24; }));
  EXPECT_FALSE(enough([](auto &o) { o.repetition_penalty = 2, o.repetition_window = 25; }));
  EXPECT_FALSE(enough([](auto &o) { o.repetition_penalty = 0.5f, o.repetition_window = 1; }));
}

} // namespace
