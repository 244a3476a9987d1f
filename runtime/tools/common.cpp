#include "runtime/tools/common.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <unistd.h>

namespace moeplan::tools {
namespace {

constexpr size_t chunkTokens = 512;

Failure systemFailure(const std::string &subject) {
  return Failure(subject + ": " + std::strerror(errno));
}

} // namespace

void check(moeplan_status *status) {
  if (!status)
    return;
  const std::unique_ptr<moeplan_status, decltype(&moeplan_status_free)> owner(status,
                                                                              moeplan_status_free);
  throw Failure(moeplan_status_message(status));
}

void check(const Status &status) {
  if (!status.ok())
    throw Failure(status.message());
}

Owned<moeplan_artifact> openArtifact(const std::string &path) {
  moeplan_artifact *artifact = nullptr;
  check(moeplan_artifact_open(path.c_str(), &artifact));
  return Owned<moeplan_artifact>(artifact);
}

Owned<moeplan_session> createSession(const moeplan_artifact &artifact, const std::string &plan,
                                     uint32_t contextLength, const ThreadOptions &threads,
                                     moeplan_runtime *runtime) {
  moeplan_session_options options;
  moeplan_session_options_init(&options);
  options.plan = plan.empty() ? nullptr : plan.c_str();
  options.context_length = contextLength;
  options.threads = threads.count;
  options.pin_threads = threads.pin;
  options.runtime = runtime;
  moeplan_session *session = nullptr;
  check(moeplan_session_create(&artifact, &options, &session));
  return Owned<moeplan_session>(session);
}

std::vector<int32_t> tokenize(const moeplan_artifact &artifact, std::string_view text,
                              bool addBos) {
  int32_t *tokens = nullptr;
  size_t count = 0;
  check(moeplan_tokenize(&artifact, text.data(), text.size(), addBos, &tokens, &count));
  const Owned<int32_t> owner(tokens);
  return {tokens, tokens + count};
}

const float *appendInChunks(moeplan_session &session, std::span<const int32_t> tokens,
                            const std::function<void(size_t index, const float *logits)> &onLogits,
                            const std::function<bool(size_t done)> &onChunk) {
  const float *lastLogits = nullptr;
  for (size_t done = 0; done < tokens.size();) {
    const auto chunk = tokens.subspan(done, std::min(chunkTokens, tokens.size() - done));
    const bool last = done + chunk.size() == tokens.size();
    const size_t logitsCount = onLogits ? chunk.size() : last ? 1 : 0;
    check(moeplan_session_append(&session, chunk.data(), chunk.size(), logitsCount));
    for (size_t row = 0; onLogits && row < logitsCount; ++row)
      onLogits(done + row, moeplan_session_logits(&session, row));
    if (last)
      lastLogits = moeplan_session_logits(&session, logitsCount - 1);
    done += chunk.size();
    if (onChunk && !onChunk(done))
      return nullptr;
  }
  return lastLogits;
}

void writeOutput(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written < 0 && errno == EPIPE)
      throw OutputClosed();
    if (written < 0)
      throw systemFailure("stdout");
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void writeJson(const nlohmann::ordered_json &json) {
  // A piece of a vocabulary need not be UTF-8.
  writeOutput(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

std::string readTextFile(const std::string &path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0)
    throw systemFailure(path);
  const std::unique_ptr<const int, void (*)(const int *)> closer(
      &file, [](const int *descriptor) { close(*descriptor); });
  std::string text;
  for (;;) {
    constexpr size_t blockBytes = size_t{1} << 20;
    const size_t before = text.size();
    text.resize(before + blockBytes);
    const ssize_t count = read(file, text.data() + before, blockBytes);
    text.resize(before + (count > 0 ? static_cast<size_t>(count) : 0));
    if (count == 0)
      return text;
    if (count < 0 && errno != EINTR)
      throw systemFailure(path);
  }
}

std::string fileName(const std::string &path) {
  return std::filesystem::path(path).filename().string();
}

nlohmann::ordered_json syntheticSeed(const moeplan_artifact &artifact) {
  uint64_t seed = 0;
  if (!moeplan_artifact_is_synthetic(&artifact, &seed))
    return nullptr;
  return seed;
}

double secondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

CLI::Validator positive() {
  auto check = [](std::string &value) {
    return std::strtod(value.c_str(), nullptr) > 0 ? std::string() : value + " is not above 0";
  };
  return {check, ""};
}

CLI::Validator notNegative() {
  auto check = [](std::string &value) {
    char *end = nullptr;
    const bool valid = std::strtod(value.c_str(), &end) >= 0 && end != value.c_str();
    return valid ? std::string() : value + " is not a number from 0 up";
  };
  return {check, ""};
}

void addArtifactArgument(CLI::App &command, std::string &path) {
  command.add_option("artifact", path, "The .moeplan file")->required()->type_name("FILE");
}

void addPlanOption(CLI::App &command, std::string &plan) {
  command.add_option("--plan", plan, "Plan of the artifact (default: its first)")
      ->type_name("NAME");
}

void addThreadOptions(CLI::App &command, ThreadOptions &threads) {
  command.add_option("--threads", threads.count, "Threads (default: one per physical core)")
      ->check(positive())
      ->type_name("N");
  command.add_flag("--pin-threads", threads.pin,
                   "Bind each thread to a CPU of its own, one of every physical core first");
}

void addJsonFlag(CLI::App &command, bool &json) {
  command.add_flag("--json", json, "Print one JSON object");
}

} // namespace moeplan::tools
