// `moeplan patch`: a new artifact out of an old one and what it lacks.
#include "runtime/tools/patch.h"

#include "runtime/artifact/patch.h"
#include "runtime/support/progress.h"
#include "runtime/support/units.h"

namespace moeplan::tools {
namespace {

struct Options {
  std::string artifact, patch, output;
};

/// What a progress bar shows, which begins with the first call.
class BytesShown {
public:
  explicit BytesShown(const char *label) : label_(label) {}
  ByteProgress callback() {
    return [this](uint64_t done, uint64_t total) {
      if (!progress_)
        progress_.emplace(label_, total);
      progress_->update(done);
    };
  }
  void finish() {
    if (progress_)
      progress_->finish();
  }

private:
  const char *label_;
  std::optional<Progress> progress_;
};

std::string sizeOf(const PatchReport &report) {
  return formatBytes(static_cast<double>(report.fileBytes));
}

void apply(const Options &options) {
  const std::unique_ptr<Artifact> artifact = check(Artifact::open(options.artifact));
  PendingFile file = check(PendingFile::create(options.output));
  BytesShown shown("patch");
  const PatchReport report = check(applyPatch(*artifact, options.patch, file, shown.callback()));
  check(file.commit());
  shown.finish();
  writeOutput(options.output + ": " + sizeOf(report) + ", " + std::to_string(report.copied) +
              " segments of " + fileName(options.artifact) + " and " +
              std::to_string(report.added) + " new ones\n");
}

} // namespace

void makePatch(const std::string &before, const std::string &after, const std::string &output) {
  const std::unique_ptr<Artifact> old = check(Artifact::open(before));
  const std::unique_ptr<Artifact> wanted = check(Artifact::open(after));
  PendingFile file = check(PendingFile::create(output));
  BytesShown shown("compare");
  const PatchReport report = check(writePatch(*old, *wanted, file, shown.callback()));
  check(file.commit());
  shown.finish();
  std::fprintf(stderr, "%s: %s, %llu new segments, %llu are in %s\n", output.c_str(),
               sizeOf(report).c_str(), static_cast<unsigned long long>(report.added),
               static_cast<unsigned long long>(report.copied), fileName(before).c_str());
}

Command addPatchCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("patch", "Make a new artifact of an old one and a patch");
  auto options = std::make_shared<Options>();
  addArtifactArgument(*command, options->artifact);
  command->add_option("PATCH", options->patch, "From 'moeplan diff --patch'")->required();
  command->add_option("-o,--output", options->output, "File to write")
      ->required()
      ->type_name("FILE");
  command->footer("The result is the artifact that the patch was made for, to the byte.\n\n"
                  "Example:\n  moeplan diff v1.moeplan v2.moeplan --patch v2.moepatch\n"
                  "  moeplan patch v1.moeplan v2.moepatch -o v2.moeplan");
  return {command, [options] { apply(*options); }};
}

} // namespace moeplan::tools
