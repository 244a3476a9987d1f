// `moeplan verify`: every checksum and every rule of the format.
#include "runtime/tools/common.h"

#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include <nlohmann/json.hpp>

namespace moeplan::tools {
namespace {

struct Options {
  std::string artifact;
  bool json = false;
};

/// Returns the bytes that were read.
uint64_t verify(const moeplan_artifact &artifact) {
  struct State {
    Progress progress{"verify", 0};
    uint64_t bytes = 0;
  } state;
  check(moeplan_artifact_verify(
      &artifact,
      [](void *userData, uint64_t done, uint64_t total) {
        auto &state = *static_cast<State *>(userData);
        state.bytes = total;
        state.progress.setTotal(total);
        state.progress.update(done);
        return true;
      },
      &state));
  state.progress.finish();
  return state.bytes;
}

void execute(const Options &options) {
  const auto start = std::chrono::steady_clock::now();
  nlohmann::ordered_json json = {{"artifact", fileName(options.artifact)}, {"ok", true}};
  try {
    const auto artifact = openArtifact(options.artifact);
    const uint64_t bytes = verify(*artifact);
    const double seconds = secondsSince(start);
    const auto seed = syntheticSeed(*artifact);
    json["bytes"] = bytes;
    json["seconds"] = seconds;
    json["synthetic"] = !seed.is_null();
    json["synthetic_seed"] = seed;
    if (!options.json)
      writeOutput(fileName(options.artifact) + ": ok, " + formatBytes(static_cast<double>(bytes)) +
                  " verified in " + formatRate(seconds) + " s" +
                  (seed.is_null() ? "" : "; synthetic weights, seed " + seed.dump()) + "\n");
  } catch (const Failure &failure) {
    json["ok"] = false;
    json["error"] = failure.what();
    if (options.json)
      writeJson(json);
    throw;
  }
  if (options.json)
    writeJson(json);
}

} // namespace

Command addVerifyCommand(CLI::App &app) {
  CLI::App *command =
      app.add_subcommand("verify", "Check every checksum and every rule of an artifact");
  auto options = std::make_shared<Options>();
  addArtifactArgument(*command, options->artifact);
  addJsonFlag(*command, options->json);
  command->footer("Example:\n  moeplan verify tiny.moeplan");
  return {command, [options] { execute(*options); }};
}

} // namespace moeplan::tools
