// Artifacts made by the compiler, in the test's process.
#pragma once

#include "compiler/driver/compile.h"

#include <filesystem>
#include <string>

namespace moeplan::testing {

inline const std::filesystem::path kTinyMixtral = MOEPLAN_SOURCE_DIR "/examples/tiny-mixtral";

/// Compiles for the host; `policy` is a file or empty. The message of the failure; empty: success.
std::string compileError(const std::filesystem::path &checkpoint,
                         const std::filesystem::path &output,
                         const std::filesystem::path &policy = {});
/// The same, but throws std::runtime_error on failure.
void compileArtifact(const std::filesystem::path &checkpoint, const std::filesystem::path &output,
                     const std::filesystem::path &policy = {});

/// As `options` say, for the host where they name no CPU; throws std::runtime_error on failure.
void compileArtifact(compiler::CompileOptions options);

} // namespace moeplan::testing
