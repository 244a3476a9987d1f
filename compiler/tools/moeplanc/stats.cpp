// `moeplanc stats`: what a file of calibration statistics says.
#include "compiler/tools/moeplanc/commands.h"

#include "compiler/calibrate/report.h"
#include "runtime/support/command_line.h"

#include <cstdio>
#include <memory>

namespace moeplan::tools {

Command addStatsCommand(CLI::App &app) {
  struct Options {
    std::string path;
    bool json = false;
  };
  CLI::App *command = app.add_subcommand("stats", "show calibration statistics");
  auto options = std::make_shared<Options>();
  command->add_option("STATISTICS", options->path, "a .moestats file")
      ->required()
      ->type_name("FILE");
  command->add_flag("--json", options->json, "as JSON, every sensitivity included");
  return {command, [options] {
            auto statistics = compiler::Statistics::open(options->path, "");
            if (!statistics)
              return reportFailure("moeplanc", llvm::toString(statistics.takeError()), kExitFailed);
            std::fputs((options->json ? compiler::statisticsJson(**statistics)
                                      : compiler::printStatistics(**statistics))
                           .c_str(),
                       stdout);
            return static_cast<int>(kExitDone);
          }};
}

} // namespace moeplan::tools
