#include "runtime/support/command_line.h"

#include <algorithm>
#include <cstdio>

namespace moeplan {

int reportFailure(const std::string &program, std::string message, ExitCode code) {
  std::replace_if(
      message.begin(), message.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  std::fprintf(stderr, "%s: %s\n", program.c_str(), message.c_str());
  return code;
}

std::optional<int> parseCommandLine(CLI::App &app, int argc, char **argv) {
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::Success &request) { // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError &error) {
    std::string command = app.get_name();
    std::string message = error.what();
    for (const CLI::App *subcommand : app.get_subcommands())
      command += " " + subcommand->get_name();
    if (app.get_subcommands().empty() && !app.remaining().empty())
      message = "unknown subcommand or option: " + app.remaining().front();
    return reportFailure(app.get_name(), message + " (see " + command + " --help)",
                         kExitWrongUsage);
  }
}

} // namespace moeplan
