// How weights come into memory, for the subcommands that run a model.
#pragma once

#include "runtime/tools/common.h"

namespace moeplan::tools {

struct LoadingOptions {
  moeplan_load_mode experts = MOEPLAN_LOAD_MAP, others = MOEPLAN_LOAD_MAP;
  bool preload = false, hugePages = false;

  /// Whether there is anything to do before the first token.
  bool isEager() const {
    return preload || experts != MOEPLAN_LOAD_MAP || others != MOEPLAN_LOAD_MAP;
  }
};

void addLoadingOptions(CLI::App &command, LoadingOptions &options);

/// Opens an artifact and brings the weights of `plan`, of its first where that is empty, into
/// memory as `options` say, with a progress bar. Throws a Failure.
Owned<moeplan_artifact> openAndLoad(const std::string &path, const std::string &plan,
                                    const LoadingOptions &options);

} // namespace moeplan::tools
