// `moeplan split` and `moeplan join`: artifacts in several files, for shipping.
#include "runtime/tools/common.h"

#include "runtime/artifact/artifact.h"
#include "runtime/artifact/parts.h"
#include "runtime/support/pending_file.h"
#include "runtime/support/progress.h"
#include "runtime/support/quantities.h"
#include "runtime/support/units.h"

#include <algorithm>

namespace moeplan::tools {
namespace {

/// Bytes written between two updates of a progress bar.
constexpr uint64_t blockBytes = 16 << 20;

struct Options {
  std::string artifact;
  std::string output; ///< empty, of split: beside the artifact
  uint64_t maxBytes = 0;
};

void writeInBlocks(PendingFile &file, const Artifact &artifact, std::span<const std::byte> bytes,
                   Progress &progress) {
  for (; !bytes.empty(); bytes = bytes.subspan(std::min<uint64_t>(blockBytes, bytes.size()))) {
    const auto block = bytes.first(std::min<uint64_t>(blockBytes, bytes.size()));
    check(file.write(block));
    artifact.release(block);
    progress.advance(block.size());
  }
}

void split(const Options &options) {
  const std::unique_ptr<Artifact> artifact = check(Artifact::open(options.artifact));
  const std::vector<PartHeader> parts =
      check(planParts(artifact->fileBytes(), artifact->header().checksum, options.maxBytes));
  const std::string name = options.output.empty() ? options.artifact : options.output;
  Progress progress("split", artifact->fileBytes());
  for (const PartHeader &part : parts) {
    PendingFile file = check(PendingFile::create(partPath(name, part.index, part.count)));
    // Of this part and those behind it: nothing is begun that cannot be finished.
    check(file.checkSpace((parts.size() - part.index) * kMappedAlignment + artifact->fileBytes() -
                          part.offset));
    check(file.write(std::as_bytes(std::span(&part, 1))));
    check(file.reserve(kMappedAlignment));
    writeInBlocks(file, *artifact, artifact->bytes().subspan(part.offset, part.bytes), progress);
    check(file.commit());
  }
  progress.finish();
  writeOutput(std::to_string(parts.size()) + " parts of at most " +
              formatBytes(static_cast<double>(options.maxBytes)) + ", the first is " +
              partPath(name, 0, parts.front().count) + "\n");
}

void join(const Options &options) {
  const std::unique_ptr<Artifact> artifact = check(Artifact::open(options.artifact));
  PendingFile file = check(PendingFile::create(options.output));
  check(file.checkSpace(artifact->fileBytes()));
  Progress progress("join", artifact->fileBytes());
  writeInBlocks(file, *artifact, artifact->bytes(), progress);
  check(file.commit());
  progress.finish();
  writeOutput(options.output + ": " + formatBytes(static_cast<double>(artifact->fileBytes())) +
              "\n");
}

} // namespace

Command addSplitCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("split", "Split an artifact into files of a limited size");
  auto options = std::make_shared<Options>();
  addArtifactArgument(*command, options->artifact);
  command
      ->add_option_function<std::string>(
          "--max-bytes",
          [options](const std::string &text) {
            const std::optional<uint64_t> bytes = parseBytes(text);
            if (!bytes || *bytes == 0)
              throw CLI::ValidationError("--max-bytes", "'" + text + "' is no size, as 10GB");
            options->maxBytes = *bytes;
          },
          "Of one file, as 10GB")
      ->required()
      ->type_name("SIZE");
  command
      ->add_option("-o,--output", options->output,
                   "Name that the parts are named after: NAME-00001-of-00005.moeplan (default: the "
                   "artifact's)")
      ->type_name("NAME");
  command->footer("Every command takes any of the parts in place of the artifact, as long as all "
                  "lie beside it.\n\nExample:\n  moeplan split mixtral.moeplan --max-bytes 10GB");
  return {command, [options] { split(*options); }};
}

Command addJoinCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("join", "Make one file of the parts of an artifact");
  auto options = std::make_shared<Options>();
  command->add_option("PART", options->artifact, "Any part; the others lie beside it")->required();
  command->add_option("-o,--output", options->output, "File to write")
      ->required()
      ->type_name("FILE");
  command->footer("Example:\n  moeplan join mixtral-00001-of-00005.moeplan -o mixtral.moeplan");
  return {command, [options] { join(*options); }};
}

} // namespace moeplan::tools
