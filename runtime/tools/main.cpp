// `moeplan`: runs, measures and looks into artifacts. Exit codes: 0 done, 1 failed, 2 wrong usage.
#include "runtime/tools/common.h"

#include <csignal>
#include <cstdio>
#include <new>
#include <string>
#include <vector>

namespace {

enum ExitCode : int { exitDone = 0, exitFailed = 1, exitWrongUsage = 2 };

/// On one line, whatever the message holds.
int fail(std::string message, ExitCode code) {
  for (char &c : message)
    if (c == '\n' || c == '\r')
      c = ' ';
  std::fprintf(stderr, "moeplan: %s\n", message.c_str());
  return code;
}

} // namespace

int main(int argc, char **argv) {
  using namespace moeplan::tools;
  // A closed pipe is then an error of write(), which ends the command in order.
  (void)std::signal(SIGPIPE, SIG_IGN);

  CLI::App app("Runs, measures and looks into .moeplan artifacts.", "moeplan");
  app.set_version_flag("--version", std::string("moeplan ") + moeplan_version());
  app.require_subcommand(1);
  app.footer("Example:\n  moeplan run tiny.moeplan --prompt \"It was\"\n"
             "An artifact holds machine code: run only those from a source you trust.");
  const std::vector<Command> commands = {addRunCommand(app), addEvalCommand(app),
                                         addBenchCommand(app), addInspectCommand(app),
                                         addVerifyCommand(app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success &request) { // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError &error) {
    std::string program = "moeplan";
    std::string message = error.what();
    for (const Command &command : commands)
      if (command.app->parsed())
        program += " " + command.app->get_name();
    if (program == "moeplan" && !app.remaining().empty())
      message = "unknown subcommand or option: " + app.remaining().front();
    return fail(message + " (see " + program + " --help)", exitWrongUsage);
  }

  try {
    for (const Command &command : commands)
      if (command.app->parsed())
        command.execute();
    return exitDone;
  } catch (const OutputClosed &) {
    return exitFailed;
  } catch (const std::bad_alloc &) {
    return fail("out of memory", exitFailed);
  } catch (const std::exception &error) {
    return fail(error.what(), exitFailed);
  }
}
