// The C API with destructors and exceptions, so that a test can say what it wants and no more.
#pragma once

#include "moeplan/moeplan.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moeplan::testing {

struct CloseHandle {
  void operator()(moeplan_artifact *artifact) const { moeplan_artifact_close(artifact); }
  void operator()(moeplan_session *session) const { moeplan_session_free(session); }
  void operator()(moeplan_sampler *sampler) const { moeplan_sampler_free(sampler); }
};
using ArtifactHandle = std::unique_ptr<moeplan_artifact, CloseHandle>;
using SessionHandle = std::unique_ptr<moeplan_session, CloseHandle>;
using SamplerHandle = std::unique_ptr<moeplan_sampler, CloseHandle>;

/// A status, taken over and released.
struct Outcome {
  moeplan_code code;
  std::string message;
};
Outcome take(moeplan_status *status);

struct SessionRequest {
  const char *plan = nullptr;
  uint32_t contextLength = 0;
  uint32_t threads = 0;
  bool pinThreads = false;
};

// What follows throws std::runtime_error with the message where the API fails.
ArtifactHandle openArtifact(const std::filesystem::path &path);
SessionHandle createSession(const moeplan_artifact *artifact, const SessionRequest &request = {});
SamplerHandle createSampler(const moeplan_sampler_options &options, uint32_t vocabSize);
std::string inspect(const moeplan_artifact *artifact);
std::vector<int32_t> tokenize(const moeplan_artifact *artifact, const std::string &text,
                              bool addBos);

/// Appends `tokens` in parts of at most `chunk` (0: at once); the logits of all of them, row-major.
std::vector<float> logitsOf(moeplan_session *session, std::span<const int32_t> tokens,
                            size_t vocabSize, size_t chunk = 0);

} // namespace moeplan::testing
