// `moeplan`: runs, measures and looks into artifacts. Exit codes: 0 done, 1 failed, 2 wrong usage.
#include "runtime/tools/common.h"

#include "runtime/support/command_line.h"

#include <csignal>
#include <exception>
#include <new>
#include <string>
#include <vector>

int main(int argc, char **argv) {
  using namespace moeplan;
  using namespace moeplan::tools;
  // A closed pipe is then an error of write(), which ends the command in order.
  (void)std::signal(SIGPIPE, SIG_IGN);

  CLI::App app("Runs, measures and looks into .moeplan artifacts.", "moeplan");
  app.set_version_flag("--version", std::string("moeplan ") + moeplan_version());
  app.require_subcommand(1);
  app.footer("Example:\n  moeplan run tiny.moeplan --prompt \"It was\"\n"
             "An artifact holds machine code: run only those from a source you trust.");
  const std::vector<Command> commands = {
      addRunCommand(app),    addEvalCommand(app), addBenchCommand(app),  addInspectCommand(app),
      addVerifyCommand(app), addFitCommand(app),  addDiffCommand(app),   addPatchCommand(app),
      addSplitCommand(app),  addJoinCommand(app), addProfileCommand(app)};
  if (const std::optional<int> code = parseCommandLine(app, argc, argv))
    return *code;
  try {
    for (const Command &command : commands)
      if (command.app->parsed())
        command.execute();
    return kExitDone;
  } catch (const OutputClosed &) {
    return kExitFailed;
  } catch (const std::bad_alloc &) {
    return reportFailure("moeplan", "out of memory", kExitFailed);
  } catch (const std::exception &error) {
    return reportFailure("moeplan", error.what(), kExitFailed);
  }
}
