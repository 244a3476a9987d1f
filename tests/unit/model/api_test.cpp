// What the C API answers to requests that cannot be met.
#include "tests/unit/model/random_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <sched.h>

namespace moeplan::testing {
namespace {

class ApiTest : public ::testing::Test {
protected:
  static void expectFailure(moeplan_status *status, moeplan_code code, const char *part) {
    const Outcome outcome = take(status);
    EXPECT_EQ(outcome.code, code) << outcome.message;
    EXPECT_NE(outcome.message.find(part), std::string::npos) << outcome.message;
    EXPECT_EQ(outcome.message.find('\n'), std::string::npos) << outcome.message;
  }

  const moeplan_artifact *artifact = unevenModel().artifact.get();
};

TEST_F(ApiTest, AFullKvCacheIsAnErrorThatChangesNothing) {
  const SessionHandle session = createSession(artifact, {.contextLength = 8});
  EXPECT_EQ(moeplan_session_context_length(session.get()), 8u);
  const std::vector<int32_t> tokens = randomTokens(9, unevenModel().vocabSize());
  expectFailure(moeplan_session_append(session.get(), tokens.data(), 9, 1),
                MOEPLAN_RESOURCE_EXHAUSTED,
                "the KV cache holds 8 positions, 0 are taken, 9 more do not fit");
  EXPECT_EQ(moeplan_session_position(session.get()), 0u);
  const std::vector<float> full =
      logitsOf(session.get(), std::span(tokens).first(8), unevenModel().vocabSize());
  EXPECT_EQ(moeplan_session_position(session.get()), 8u);
  expectFailure(moeplan_session_append(session.get(), tokens.data(), 1, 1),
                MOEPLAN_RESOURCE_EXHAUSTED,
                "the KV cache holds 8 positions, 8 are taken, 1 more do not fit");
  EXPECT_EQ(moeplan_session_position(session.get()), 8u);
  moeplan_session_reset(session.get());
  EXPECT_EQ(logitsOf(session.get(), std::span(tokens).first(8), unevenModel().vocabSize()), full);
}

TEST_F(ApiTest, TokensOutsideTheVocabularyAreRefused) {
  const SessionHandle session = createSession(artifact);
  for (int32_t bad : {-1, 512, INT32_MAX, INT32_MIN}) {
    const int32_t tokens[] = {1, 2, bad};
    expectFailure(moeplan_session_append(session.get(), tokens, 3, 1), MOEPLAN_INVALID_ARGUMENT,
                  ("token 2 has id " + std::to_string(bad) + ", the vocabulary has 512").c_str());
    EXPECT_EQ(moeplan_session_position(session.get()), 0u);
  }
}

TEST_F(ApiTest, AppendNeedsTokensAndNoMoreLogitsThanTokens) {
  const SessionHandle session = createSession(artifact);
  const int32_t token = 1;
  expectFailure(moeplan_session_append(session.get(), &token, 0, 0), MOEPLAN_INVALID_ARGUMENT,
                "at least one token");
  expectFailure(moeplan_session_append(session.get(), nullptr, 0, 0), MOEPLAN_INVALID_ARGUMENT,
                "at least one token");
  expectFailure(moeplan_session_append(session.get(), &token, 1, 2), MOEPLAN_INVALID_ARGUMENT,
                "no more logits than tokens");
}

TEST_F(ApiTest, OptionsOfAnUnknownSizeAreRefused) {
  moeplan_session *session = nullptr;
  moeplan_session_options options;
  moeplan_session_options_init(&options);
  for (size_t size : {size_t(0), sizeof(size_t) - 1, sizeof(options) + 1}) {
    options.struct_size = size;
    expectFailure(moeplan_session_create(artifact, &options, &session), MOEPLAN_INVALID_ARGUMENT,
                  ("options.struct_size is " + std::to_string(size)).c_str());
  }
  EXPECT_EQ(session, nullptr);
}

TEST_F(ApiTest, OptionsOfAnOlderHeaderLeaveTheRestAtTheirDefaults) {
  moeplan_session_options options;
  moeplan_session_options_init(&options);
  options.context_length = 5;
  options.threads = 100000; // would be refused
  options.struct_size = offsetof(moeplan_session_options, threads);
  moeplan_session *session = nullptr;
  ASSERT_EQ(take(moeplan_session_create(artifact, &options, &session)).code, MOEPLAN_OK);
  EXPECT_EQ(moeplan_session_context_length(session), 5u);
  moeplan_session_free(session);
}

TEST_F(ApiTest, MoreThreadsThanCpusCannotBePinned) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  ASSERT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
  moeplan_session_options options;
  moeplan_session_options_init(&options);
  options.threads = uint32_t(CPU_COUNT(&mask)) + 1;
  options.pin_threads = true;
  moeplan_session *session = nullptr;
  expectFailure(moeplan_session_create(artifact, &options, &session), MOEPLAN_UNSUPPORTED,
                ("cannot pin " + std::to_string(options.threads) + " threads").c_str());
  EXPECT_EQ(session, nullptr);
}

TEST_F(ApiTest, PinningGivesTheSameLogitsAndTheCallerItsCpusBack) {
  const std::vector<int32_t> tokens = {1, 2, 3};
  const size_t vocabSize = moeplan_artifact_model_info(artifact).vocab_size;
  cpu_set_t before, after;
  CPU_ZERO(&before);
  CPU_ZERO(&after);
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const auto threads = uint32_t(std::min(CPU_COUNT(&before), 2));
  const SessionHandle plain = createSession(artifact, {.threads = threads});
  const SessionHandle pinned = createSession(artifact, {.threads = threads, .pinThreads = true});
  EXPECT_EQ(logitsOf(pinned.get(), tokens, vocabSize), logitsOf(plain.get(), tokens, vocabSize));
  ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST_F(ApiTest, SessionsThatCannotBeAreRefused) {
  moeplan_session *session = nullptr;
  moeplan_session_options options;
  moeplan_session_options_init(&options);
  options.context_length = 513;
  expectFailure(moeplan_session_create(artifact, &options, &session), MOEPLAN_INVALID_ARGUMENT,
                "context length 513 exceeds the model's max_position_embeddings 512");
  moeplan_session_options_init(&options);
  options.plan = "fast";
  expectFailure(moeplan_session_create(artifact, &options, &session), MOEPLAN_NOT_FOUND,
                "no plan 'fast'; the artifact has 'default'");
  moeplan_session_options_init(&options);
  options.threads = 100000;
  expectFailure(moeplan_session_create(artifact, &options, &session), MOEPLAN_INVALID_ARGUMENT,
                "threads");
  EXPECT_EQ(session, nullptr);
}

TEST_F(ApiTest, NullArgumentsAreRefusedOrIgnored) {
  moeplan_artifact *opened = nullptr;
  moeplan_session *session = nullptr;
  moeplan_sampler *sampler = nullptr;
  moeplan_text_decoder *decoder = nullptr;
  int32_t token = 1, *tokens = nullptr;
  size_t count = 0;
  char *json = nullptr;
  const char *text = nullptr;
  moeplan_work work{};
  const SessionHandle good = createSession(artifact);
  moeplan_sampler_options options;
  moeplan_sampler_options_init(&options);
  const SamplerHandle sampling = createSampler(options, 512);
  int32_t next = 0;
  for (moeplan_status *status :
       {moeplan_artifact_open(nullptr, &opened),
        moeplan_artifact_open("x", nullptr),
        moeplan_artifact_verify(nullptr, nullptr, nullptr),
        moeplan_artifact_inspect(nullptr, &json),
        moeplan_artifact_inspect(artifact, nullptr),
        moeplan_tokenize(nullptr, "a", 1, true, &tokens, &count),
        moeplan_tokenize(artifact, nullptr, 1, true, &tokens, &count),
        moeplan_tokenize(artifact, "a", 1, true, nullptr, &count),
        moeplan_tokenize(artifact, "a", 1, true, &tokens, nullptr),
        moeplan_text_decoder_create(nullptr, &decoder),
        moeplan_text_decoder_create(artifact, nullptr),
        moeplan_text_decoder_push(nullptr, 1, &text, &count),
        moeplan_text_decoder_finish(nullptr, &text, &count),
        moeplan_session_create(nullptr, nullptr, &session),
        moeplan_session_create(artifact, nullptr, nullptr),
        moeplan_runtime_fit(nullptr, nullptr, &json),
        moeplan_session_append(nullptr, &token, 1, 1),
        moeplan_session_append(good.get(), nullptr, 1, 1),
        moeplan_session_append_sampled(nullptr, &token, 1, sampling.get(), &next),
        moeplan_session_append_sampled(good.get(), nullptr, 1, sampling.get(), &next),
        moeplan_session_append_sampled(good.get(), &token, 1, nullptr, &next),
        moeplan_session_append_sampled(good.get(), &token, 1, sampling.get(), nullptr),
        moeplan_session_append_counted(nullptr, &token, 1, 1, &work),
        moeplan_session_append_counted(good.get(), nullptr, 1, 1, &work),
        moeplan_session_append_counted(good.get(), &token, 1, 1, nullptr),
        moeplan_session_measure_kernels(nullptr, &token, 1, 1, 1, &json),
        moeplan_session_measure_kernels(good.get(), nullptr, 1, 1, 1, &json),
        moeplan_session_measure_kernels(good.get(), &token, 1, 1, 1, nullptr),
        moeplan_measure_arithmetic_peak(MOEPLAN_ARITHMETIC_F32, 1, 1, nullptr),
        moeplan_sampler_create(nullptr, 10, nullptr),
        moeplan_measure_read_bandwidth(1, 4096, 1, nullptr)})
    expectFailure(status, MOEPLAN_INVALID_ARGUMENT, "NULL");
  EXPECT_EQ(sampler, nullptr);

  moeplan_status_free(nullptr);
  moeplan_artifact_close(nullptr);
  moeplan_session_free(nullptr);
  moeplan_session_reset(nullptr);
  moeplan_session_options_init(nullptr);
  moeplan_sampler_options_init(nullptr);
  moeplan_sampler_observe(nullptr, 1);
  moeplan_sampler_free(nullptr);
  moeplan_text_decoder_free(nullptr);
  moeplan_string_free(nullptr);
  moeplan_tokens_free(nullptr);
  EXPECT_EQ(moeplan_status_code(nullptr), MOEPLAN_OK);
  EXPECT_STREQ(moeplan_status_message(nullptr), "ok");
  EXPECT_EQ(moeplan_artifact_plan_count(nullptr), 0u);
  EXPECT_EQ(moeplan_artifact_plan_name(nullptr, 0), nullptr);
  EXPECT_EQ(moeplan_artifact_plan_name(artifact, 1), nullptr);
  EXPECT_EQ(moeplan_artifact_model_info(nullptr).vocab_size, 0u);
  EXPECT_FALSE(moeplan_artifact_is_eos(nullptr, 2));
  EXPECT_EQ(moeplan_session_logits(nullptr, 0), nullptr);
  EXPECT_EQ(moeplan_session_position(nullptr), 0u);
  EXPECT_EQ(moeplan_session_target_cpu(nullptr), nullptr);
}

TEST_F(ApiTest, LogitsExistOnlyBehindAnAppend) {
  const SessionHandle session = createSession(artifact);
  EXPECT_EQ(moeplan_session_logits(session.get(), 0), nullptr);
  const int32_t tokens[] = {1, 2};
  ASSERT_EQ(take(moeplan_session_append(session.get(), tokens, 2, 1)).code, MOEPLAN_OK);
  EXPECT_NE(moeplan_session_logits(session.get(), 0), nullptr);
  EXPECT_EQ(moeplan_session_logits(session.get(), 1), nullptr);
  EXPECT_EQ(moeplan_session_logits(session.get(), SIZE_MAX), nullptr);
}

TEST_F(ApiTest, SamplesWhatFollows) {
  const SessionHandle one = createSession(artifact), other = createSession(artifact);
  moeplan_sampler_options options;
  moeplan_sampler_options_init(&options);
  options.top_k = 20;
  const SamplerHandle sampled = createSampler(options, 512), byHand = createSampler(options, 512);
  const int32_t prompt[] = {1, 2, 3};
  int32_t next = -1, expected = -1;
  ASSERT_EQ(take(moeplan_session_append_sampled(one.get(), prompt, 3, sampled.get(), &next)).code,
            MOEPLAN_OK);
  ASSERT_EQ(take(moeplan_session_append(other.get(), prompt, 3, 1)).code, MOEPLAN_OK);
  for (int i = 0; i < 5; ++i) {
    expected = moeplan_sampler_sample(byHand.get(), moeplan_session_logits(other.get(), 0));
    ASSERT_EQ(next, expected);
    EXPECT_EQ(moeplan_session_logits(one.get(), 0), nullptr);
    ASSERT_EQ(take(moeplan_session_append_sampled(one.get(), &next, 1, sampled.get(), &next)).code,
              MOEPLAN_OK);
    ASSERT_EQ(take(moeplan_session_append(other.get(), &expected, 1, 1)).code, MOEPLAN_OK);
  }
  EXPECT_EQ(moeplan_session_position(one.get()), 8u);
  const SamplerHandle ofAnother = createSampler(options, 511);
  expectFailure(moeplan_session_append_sampled(one.get(), &next, 1, ofAnother.get(), &next),
                MOEPLAN_INVALID_ARGUMENT, "the sampler is for 511 tokens, the model has 512");
}

TEST_F(ApiTest, AnArtifactSaysWhatItIs) {
  const moeplan_model_info info = moeplan_artifact_model_info(artifact);
  EXPECT_EQ(info.vocab_size, 512u);
  EXPECT_EQ(info.num_layers, 2u);
  EXPECT_EQ(info.num_experts, 6u);
  EXPECT_EQ(info.num_experts_per_tok, 2u);
  EXPECT_EQ(info.max_context, 512u);
  EXPECT_EQ(info.bos_token_id, 1);
  EXPECT_TRUE(moeplan_artifact_is_eos(artifact, 2));
  EXPECT_FALSE(moeplan_artifact_is_eos(artifact, 1));
  ASSERT_EQ(moeplan_artifact_plan_count(artifact), 1u);
  EXPECT_STREQ(moeplan_artifact_plan_name(artifact, 0), "default");
}

TEST_F(ApiTest, ATokenizerWithMorePiecesThanTheVocabularyIsRefusedWhenItIsUsed) {
  int32_t *tokens = nullptr;
  size_t count = 0;
  for (int i = 0; i < 2; ++i) // the second answer is the remembered one
    expectFailure(moeplan_tokenize(artifact, "a", 1, true, &tokens, &count), MOEPLAN_CORRUPT,
                  "2048 pieces, the model's vocabulary has 512");
}

TEST_F(ApiTest, VerificationCanBeCancelled) {
  auto progress = [](void *calls, uint64_t, uint64_t) { return ++*static_cast<int *>(calls) < 3; };
  int calls = 0;
  expectFailure(moeplan_artifact_verify(artifact, progress, &calls), MOEPLAN_CANCELLED,
                "cancelled");
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(take(moeplan_artifact_verify(artifact, nullptr, nullptr)).code, MOEPLAN_OK);
}

TEST_F(ApiTest, FilesThatAreNoArtifactAreRefused) {
  TemporaryDirectory directory;
  const std::string path = directory.path() / "x.moeplan";
  moeplan_artifact *opened = nullptr;
  expectFailure(moeplan_artifact_open(path.c_str(), &opened), MOEPLAN_NOT_FOUND, path.c_str());
  expectFailure(moeplan_artifact_open(directory.path().c_str(), &opened), MOEPLAN_IO_ERROR,
                "a regular file expected");
  writeFile(path, "GGUF and some more bytes");
  expectFailure(moeplan_artifact_open(path.c_str(), &opened), MOEPLAN_CORRUPT,
                "not a .moeplan file");
  EXPECT_EQ(opened, nullptr);
}

} // namespace
} // namespace moeplan::testing
