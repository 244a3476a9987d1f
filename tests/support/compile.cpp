#include "compile.h"

#include <stdexcept>

namespace moeplan::testing {

std::string compileError(const std::filesystem::path &checkpoint,
                         const std::filesystem::path &output, const std::filesystem::path &policy) {
  compiler::CompileOptions options;
  options.checkpoint = checkpoint;
  options.output = output;
  options.policy = policy;
  options.targetCpus = {"host"};
  auto report = compiler::compile(options);
  return report ? std::string() : llvm::toString(report.takeError());
}

void compileArtifact(const std::filesystem::path &checkpoint, const std::filesystem::path &output,
                     const std::filesystem::path &policy) {
  if (std::string error = compileError(checkpoint, output, policy); !error.empty())
    throw std::runtime_error(error);
}

void compileArtifact(compiler::CompileOptions options) {
  if (options.targetCpus.empty())
    options.targetCpus = {"host"};
  auto report = compiler::compile(options);
  if (!report)
    throw std::runtime_error(llvm::toString(report.takeError()));
}

} // namespace moeplan::testing
