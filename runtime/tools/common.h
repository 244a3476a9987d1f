// What the subcommands of `moeplan` share: owners for the C API's objects, errors, output, options.
#pragma once

#include "moeplan/moeplan.h"
#include "runtime/support/status.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace moeplan::tools {

/// A failure for the user: main() prints it after "moeplan: " and exits with 1.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The reader of stdout has gone (EPIPE): main() exits with 1 and says nothing.
struct OutputClosed {};

/// Throws a Failure with the message of `status`, and frees it, unless it is NULL.
void check(moeplan_status *status);
/// The same for the runtime's own.
void check(const Status &status);
template <typename T> T check(Result<T> result) {
  if (!result.ok())
    check(result.failure());
  return std::move(result).value();
}

struct Deleter {
  void operator()(moeplan_artifact *artifact) const { moeplan_artifact_close(artifact); }
  void operator()(moeplan_runtime *runtime) const { moeplan_runtime_free(runtime); }
  void operator()(moeplan_session *session) const { moeplan_session_free(session); }
  void operator()(moeplan_sampler *sampler) const { moeplan_sampler_free(sampler); }
  void operator()(moeplan_text_decoder *decoder) const { moeplan_text_decoder_free(decoder); }
  void operator()(int32_t *tokens) const { moeplan_tokens_free(tokens); }
  void operator()(char *string) const { moeplan_string_free(string); }
};
template <typename T> using Owned = std::unique_ptr<T, Deleter>;

Owned<moeplan_artifact> openArtifact(const std::string &path);

struct ThreadOptions {
  uint32_t count = 0; ///< 0: the runtime's choice
  bool pin = false;
};

/// `plan` empty and `contextLength` 0: the runtime's choice. `runtime` null: one of its own.
Owned<moeplan_session> createSession(const moeplan_artifact &artifact, const std::string &plan,
                                     uint32_t contextLength, const ThreadOptions &threads,
                                     moeplan_runtime *runtime = nullptr);

std::vector<int32_t> tokenize(const moeplan_artifact &artifact, std::string_view text, bool addBos);

/// Appends `tokens` in chunks, so that the session needs room for the logits of one chunk only and
/// Ctrl-C and progress bars work in a long prompt. `onLogits`, which may be empty, is given the
/// logits (float32 [vocab_size], valid during the call) of each position in turn; without it only
/// those of the last position are computed. `onChunk`, which may be empty, is called with the
/// number of tokens done and returns false to stop. Returns the logits of the last position, which
/// live until the next append, or NULL where `onChunk` stopped it.
const float *appendInChunks(moeplan_session &session, std::span<const int32_t> tokens,
                            const std::function<void(size_t index, const float *logits)> &onLogits,
                            const std::function<bool(size_t done)> &onChunk);

/// Writes to stdout and flushes. Throws OutputClosed or Failure.
void writeOutput(std::string_view text);
/// On one line.
void writeJson(const nlohmann::ordered_json &json);

/// Whole file as text. Throws a Failure that names it.
std::string readTextFile(const std::string &path);

/// Last component of `path`.
std::string fileName(const std::string &path);

/// The seed of synthetic weights; null where weights are in the file.
nlohmann::ordered_json syntheticSeed(const moeplan_artifact &artifact);

double secondsSince(std::chrono::steady_clock::time_point start);

/// Options that several subcommands have, with one wording.
void addArtifactArgument(CLI::App &command, std::string &path);
void addPlanOption(CLI::App &command, std::string &plan);
void addThreadOptions(CLI::App &command, ThreadOptions &threads);
void addJsonFlag(CLI::App &command, bool &json);
/// Checks of an option: a number above 0, or not below it.
CLI::Validator positive();
CLI::Validator notNegative();

/// Declares a subcommand on `app` and returns what executes it once the command line is parsed.
struct Command {
  CLI::App *app;
  std::function<void()> execute;
};
Command addProfileCommand(CLI::App &app);
Command addRunCommand(CLI::App &app);
Command addEvalCommand(CLI::App &app);
Command addBenchCommand(CLI::App &app);
Command addInspectCommand(CLI::App &app);
Command addVerifyCommand(CLI::App &app);
Command addFitCommand(CLI::App &app);
Command addDiffCommand(CLI::App &app);
Command addPatchCommand(CLI::App &app);
Command addSplitCommand(CLI::App &app);
Command addJoinCommand(CLI::App &app);

} // namespace moeplan::tools
