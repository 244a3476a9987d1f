// The subcommands of moeplanc.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace moeplan::tools {

struct Command {
  CLI::App *app;
  std::function<int()> run; ///< returns the exit code
};

Command addCompileCommand(CLI::App &app);
Command addCalibrateCommand(CLI::App &app);
Command addExploreCommand(CLI::App &app);
Command addProbeCommand(CLI::App &app);
Command addStatsCommand(CLI::App &app);
Command addSynthCommand(CLI::App &app);

} // namespace moeplan::tools
