// `moeplanc probe`: the artifacts that `moeplan profile` measures a machine with.
#include "compiler/tools/moeplanc/commands.h"

#include "compiler/driver/probe.h"
#include "runtime/support/command_line.h"
#include "runtime/support/progress.h"

#include "llvm/ADT/StringExtras.h"

#include <cstdio>
#include <memory>

namespace moeplan::tools {
namespace {

int run(compiler::ProbeOptions &options) {
  Progress progress("probe", 0, "probes");
  options.progress = [&](uint64_t done, uint64_t total) {
    progress.setTotal(total);
    progress.update(done);
  };
  auto paths = compiler::makeProbes(options);
  if (!paths)
    return reportFailure("moeplanc", llvm::toString(paths.takeError()), kExitFailed);
  progress.finish();
  std::fprintf(stderr, "probes: %s\n", llvm::join(*paths, ", ").c_str());
  return kExitDone;
}

} // namespace

Command addProbeCommand(CLI::App &app) {
  CLI::App *command =
      app.add_subcommand("probe", "compile what 'moeplan profile' measures a machine with");
  auto options = std::make_shared<compiler::ProbeOptions>();
  command->add_option("-o,--output", options->directory, "directory to write to")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--target-cpu", options->targetCpus,
                   "CPUs to compile kernels for, separated by commas (default: host)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("CPU,...");
  command->footer("Where 'moeplan profile' runs beside moeplanc it does this itself.\n"
                  "Example:\n  moeplanc probe --target-cpu znver4 -o probes\n"
                  "  moeplan profile --probe probes/*.moeplan -o machine.toml   # on that machine");
  return {command, [options] { return run(*options); }};
}

} // namespace moeplan::tools
