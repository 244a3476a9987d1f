// What the command lines of `moeplan` and `moeplanc` share.
#pragma once

#include <CLI/CLI.hpp>

#include <optional>
#include <string>

namespace moeplan {

/// How every tool of this project ends.
enum ExitCode { kExitDone = 0, kExitFailed = 1, kExitWrongUsage = 2 };

/// Prints `PROGRAM: MESSAGE` on standard error, on one line whatever the message holds, and returns
/// `code`.
int reportFailure(const std::string &program, std::string message, ExitCode code);

/// Parses into `app`, whose name is the program's. Returns the exit code where the program is to end:
/// after --help or --version, or after a wrong command line, about which it prints one line.
std::optional<int> parseCommandLine(CLI::App &app, int argc, char **argv);

} // namespace moeplan
