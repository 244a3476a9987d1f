// Artifacts that were split into several files, for shipping.
#pragma once

#include "artifact_header.h"
#include "runtime/support/mapped_file.h"
#include "runtime/support/status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace moeplan {

/// "model.moeplan" -> "model-00002-of-00005.moeplan", for index 1.
std::string partPath(const std::string &artifact, uint32_t index, uint32_t count);

/// The header of each part of an artifact of `artifactBytes` bytes, each file of at most
/// `maxBytes`, header included. Errors: MOEPLAN_INVALID_ARGUMENT where that is too little for any
/// artifact, or makes more than 99,999 parts.
Result<std::vector<PartHeader>> planParts(uint64_t artifactBytes, uint64_t artifactChecksum,
                                          uint64_t maxBytes);

/// Maps an artifact: the file at `path`, or where it is a part of a split artifact, that with all
/// others, which lie beside it under the names that partPath() gives them. Of parts the headers are
/// checked: all are there, of this artifact, and whole. Errors: MOEPLAN_NOT_FOUND,
/// MOEPLAN_IO_ERROR, MOEPLAN_CORRUPT, MOEPLAN_UNSUPPORTED, naming the file.
Result<MappedFile> openArtifactFile(const std::string &path);

} // namespace moeplan
