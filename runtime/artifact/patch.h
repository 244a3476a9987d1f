// Patches: what makes one artifact out of another, with the bytes that the first one lacks.
#pragma once

#include "runtime/artifact/artifact.h"
#include "runtime/support/pending_file.h"

#include <functional>

namespace moeplan {

/// Called with bytes done so far and in all; may be empty.
using ByteProgress = std::function<void(uint64_t, uint64_t)>;

struct PatchReport {
  uint64_t copied = 0, added = 0; ///< segments that the old artifact has, and that it lacks
  uint64_t fileBytes = 0;
};

/// Writes the patch from `before` to `after` to `file`, which the caller commits. Segments are the
/// same where their bytes are: those that checksums call the same are compared. Errors:
/// MOEPLAN_IO_ERROR.
Result<PatchReport> writePatch(const Artifact &before, const Artifact &after, PendingFile &file,
                               const ByteProgress &progress);

/// Writes what `patch`, a file at that path, makes of `before` to `file`, which the caller commits:
/// the same bytes as the artifact that the patch was made for. Every segment is checked. Errors:
/// MOEPLAN_CORRUPT, MOEPLAN_INVALID_ARGUMENT where the patch is for another artifact,
/// MOEPLAN_UNSUPPORTED, MOEPLAN_IO_ERROR, MOEPLAN_RESOURCE_EXHAUSTED.
Result<PatchReport> applyPatch(const Artifact &before, const std::string &patch, PendingFile &file,
                               const ByteProgress &progress);

} // namespace moeplan
