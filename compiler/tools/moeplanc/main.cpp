// moeplanc: the compiler's command line. Exit codes: 0 done, 1 failed, 2 wrong usage.
#include "compiler/tools/moeplanc/commands.h"

#include "runtime/support/command_line.h"

using namespace moeplan;

int main(int argc, char **argv) {
  CLI::App app("Compiles Mixture-of-Experts checkpoints into .moeplan artifacts.", "moeplanc");
  app.set_version_flag("--version", "moeplanc " MOEPLAN_VERSION);
  app.require_subcommand(1);
  const tools::Command commands[] = {tools::addCompileCommand(app), tools::addCalibrateCommand(app),
                                     tools::addExploreCommand(app), tools::addProbeCommand(app),
                                     tools::addStatsCommand(app), tools::addSynthCommand(app)};
  if (const std::optional<int> code = parseCommandLine(app, argc, argv))
    return *code;
  for (const tools::Command &command : commands)
    if (command.app->parsed())
      return command.run();
  return kExitWrongUsage;
}
