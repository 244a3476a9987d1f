#include "api.h"

#include <algorithm>
#include <stdexcept>

namespace moeplan::testing {

namespace {

void check(moeplan_status *status) {
  if (Outcome outcome = take(status); outcome.code != MOEPLAN_OK)
    throw std::runtime_error(outcome.message);
}

} // namespace

Outcome take(moeplan_status *status) {
  Outcome outcome{moeplan_status_code(status), moeplan_status_message(status)};
  moeplan_status_free(status);
  return outcome;
}

ArtifactHandle openArtifact(const std::filesystem::path &path) {
  moeplan_artifact *artifact = nullptr;
  check(moeplan_artifact_open(path.c_str(), &artifact));
  return ArtifactHandle(artifact);
}

SamplerHandle createSampler(const moeplan_sampler_options &options, uint32_t vocabSize) {
  moeplan_sampler *sampler = nullptr;
  check(moeplan_sampler_create(&options, vocabSize, &sampler));
  return SamplerHandle(sampler);
}

SessionHandle createSession(const moeplan_artifact *artifact, const SessionRequest &request) {
  moeplan_session_options options;
  moeplan_session_options_init(&options);
  options.plan = request.plan;
  options.context_length = request.contextLength;
  options.threads = request.threads;
  options.pin_threads = request.pinThreads;
  moeplan_session *session = nullptr;
  check(moeplan_session_create(artifact, &options, &session));
  return SessionHandle(session);
}

std::string inspect(const moeplan_artifact *artifact) {
  char *json = nullptr;
  check(moeplan_artifact_inspect(artifact, &json));
  std::string text = json;
  moeplan_string_free(json);
  return text;
}

std::vector<int32_t> tokenize(const moeplan_artifact *artifact, const std::string &text,
                              bool addBos) {
  int32_t *tokens = nullptr;
  size_t count = 0;
  check(moeplan_tokenize(artifact, text.data(), text.size(), addBos, &tokens, &count));
  std::vector<int32_t> result(tokens, tokens + count);
  moeplan_tokens_free(tokens);
  return result;
}

std::vector<float> logitsOf(moeplan_session *session, std::span<const int32_t> tokens,
                            size_t vocabSize, size_t chunk) {
  if (chunk == 0)
    chunk = tokens.size();
  std::vector<float> result;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const size_t count = std::min(chunk, tokens.size() - begin);
    check(moeplan_session_append(session, tokens.data() + begin, count, count));
    const float *logits = moeplan_session_logits(session, 0);
    result.insert(result.end(), logits, logits + count * vocabSize);
  }
  return result;
}

} // namespace moeplan::testing
