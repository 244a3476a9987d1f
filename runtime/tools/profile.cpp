// `moeplan profile`: what this machine can do, for the compiler's planner.
#include "runtime/tools/common.h"

#include "runtime/device/host_info.h"
#include "runtime/support/units.h"
#include "runtime/tools/profile_measure.h"
#include "runtime/tools/profile_probes.h"
#include "runtime/tools/profile_text.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <unistd.h>

namespace moeplan::tools {
namespace {

constexpr const char *footer = R"(Example:
  moeplan profile -o machine.toml
  moeplanc probe --target-cpu znver4 -o probes       # on another machine, where this one has no moeplanc
  moeplan profile --probe probes/*.moeplan -o machine.toml

Best on a machine that does nothing else. The file's formula: compiler/profile/profile.h.)";

struct Options {
  std::string output, name;
  ProfileOptions measure;
};

void writeFile(const std::string &path, const std::string &text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file)
    throw Failure(path + ": " + std::strerror(errno));
}

/// An output that can be written, which is known before anything that takes long. Without keep() a
/// file that was not there before is removed again.
class OutputFile {
public:
  explicit OutputFile(const std::string &path)
      : path_(path), isNew_(access(path.c_str(), F_OK) != 0) {
    if (!std::ofstream(path, std::ios::app))
      throw Failure(path + ": " + std::strerror(errno));
  }
  ~OutputFile() {
    if (isNew_)
      unlink(path_.c_str());
  }
  OutputFile(const OutputFile &) = delete;
  OutputFile &operator=(const OutputFile &) = delete;
  void keep() { isNew_ = false; }

private:
  std::string path_;
  bool isNew_;
};

void profile(Options options) {
  OutputFile output(options.output);
  std::optional<TemporaryDirectory> directory;
  if (options.measure.probes.empty()) {
    directory.emplace();
    options.measure.probes = makeProbes(directory->path());
  }
  MachineProfile machine;
  FitInput input = measureProbes(options.measure, machine.threads, machine.readBytesPerSecond);
  machine.hostName = cpuName();
  machine.name = options.name.empty() ? machine.hostName : options.name;
  machine.memoryBytes = physicalMemoryBytes();
  machine.cacheBytes = lastLevelCacheBytes();
  input.cacheBytes = static_cast<double>(machine.cacheBytes);
  machine.fit = fitProfile(input);
  writeFile(options.output, profileText(machine));
  output.keep();

  double worst = 0;
  for (const DecodeSample &sample : input.decode)
    worst =
        std::max(worst, std::abs(decodeSeconds(machine.fit, input, sample) / sample.seconds - 1));
  std::fprintf(stderr,
               "%s: %u threads, memory read at %s/s, the probes' decode times met within %s%%\n",
               options.output.c_str(), machine.threads,
               formatBytes(input.readBytesPerSecond).c_str(), formatRate(100 * worst).c_str());
}

} // namespace

Command addProfileCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("profile", "Measure this machine, for plans made for it");
  auto options = std::make_shared<Options>();
  command->add_option("-o,--output", options->output, "The TOML file to write")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--probe", options->measure.probes,
                   "Artifacts to measure with (default: what 'moeplanc probe' makes)")
      ->type_name("FILE...");
  command->add_option("--name", options->name, "Of the profile (default: the CPU's)")
      ->type_name("TEXT");
  addThreadOptions(*command, options->measure.threads);
  command->add_option("--repetitions", options->measure.repetitions, "Times that each is measured")
      ->capture_default_str()
      ->check(positive())
      ->type_name("N");
  command->footer(footer);
  return {command, [options] { profile(*options); }};
}

} // namespace moeplan::tools
