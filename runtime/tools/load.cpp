#include "runtime/tools/load.h"

#include "runtime/support/progress.h"

#include <map>
#include <optional>

namespace moeplan::tools {
namespace {

const std::map<std::string, moeplan_load_mode, std::less<>> modes{
    {"mmap", MOEPLAN_LOAD_MAP}, {"read", MOEPLAN_LOAD_READ}, {"direct", MOEPLAN_LOAD_DIRECT}};

/// "direct", or "experts=direct,others=mmap". Throws a CLI::ValidationError.
void parseModes(const std::vector<std::string> &entries, LoadingOptions &options) {
  for (const std::string &entry : entries) {
    const size_t equals = entry.find('=');
    const std::string name = equals == std::string::npos ? "" : entry.substr(0, equals);
    const auto mode = modes.find(entry.substr(equals == std::string::npos ? 0 : equals + 1));
    if (mode == modes.end() || (!name.empty() && name != "experts" && name != "others"))
      throw CLI::ValidationError("--load", "'" + entry +
                                               "' is none of mmap, read, direct, or of those with "
                                               "experts= or others= before it");
    if (name != "others")
      options.experts = mode->second;
    if (name != "experts")
      options.others = mode->second;
  }
}

} // namespace

void addLoadingOptions(CLI::App &command, LoadingOptions &options) {
  command
      .add_option_function<std::vector<std::string>>(
          "--load",
          [&options](const std::vector<std::string> &entries) { parseModes(entries, options); },
          "How weights come into memory: 'mmap' on demand from the page cache (the default), "
          "'read' "
          "through it or 'direct' past it into the process's own before the first token; or by "
          "class "
          "of weights, as 'experts=direct,others=read'")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("MODE,...");
  command.add_flag(
      "--preload", options.preload,
      "Read mapped weights before the first token, in the order of the plan's program");
  command.add_flag("--huge-pages", options.hugePages,
                   "Ask for huge pages for weights that --load=read or direct brings in");
}

Owned<moeplan_artifact> openAndLoad(const std::string &path, const std::string &plan,
                                    const LoadingOptions &options) {
  Owned<moeplan_artifact> artifact = openArtifact(path);
  if (!options.isEager())
    return artifact;
  moeplan_load_options load;
  moeplan_load_options_init(&load);
  load.experts = options.experts;
  load.others = options.others;
  load.preload = options.preload;
  load.huge_pages = options.hugePages;
  load.plan = plan.empty() ? moeplan_artifact_plan_name(artifact.get(), 0) : plan.c_str();
  std::optional<Progress> progress;
  load.user_data = &progress;
  load.progress = [](void *data, uint64_t done, uint64_t total) {
    auto &progress = *static_cast<std::optional<Progress> *>(data);
    if (!progress)
      progress.emplace("load", total);
    progress->update(done);
    return true;
  };
  check(moeplan_artifact_load(artifact.get(), &load));
  if (progress)
    progress->finish();
  return artifact;
}

} // namespace moeplan::tools
