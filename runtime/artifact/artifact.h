// A .moeplan file, open and checked.
#pragma once

#include "artifact_header.h"
#include "moeplan_generated.h"
#include "runtime/support/mapped_file.h"
#include "runtime/support/status.h"

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moeplan {

/// An artifact whose header, metadata and every index in it have been checked: whatever the
/// accessors give out is in range. Immutable; safe to use from any number of threads.
class Artifact {
public:
  /// Cost: maps the file and reads its metadata; no weight is touched.
  static Result<std::unique_ptr<Artifact>> open(const std::string &path);

  const ArtifactHeader &header() const { return header_; }
  const fb::Artifact &metadata() const { return *metadata_; }
  const fb::Model &model() const { return *metadata_->model(); }
  uint64_t fileBytes() const { return file_.bytes().size(); }
  bool hasTokenizer() const { return metadata_->tokenizer_segment() != kNoTokenizer; }

  /// The bytes of segment `index` as they lie in the file.
  std::span<const std::byte> stored(uint32_t index) const;
  /// The bytes of a code or tokenizer segment, checked against its checksum and decompressed.
  Result<std::vector<std::byte>> load(uint32_t index) const;

  /// The plan called `name`, or the first where `name` is null.
  Result<const fb::Plan *> plan(const char *name) const;

  /// Checks every byte of the file: checksums, padding, compressed segments. `progress` gets bytes
  /// done of all and stops the check by returning false; it may be empty.
  Status verify(const std::function<bool(uint64_t, uint64_t)> &progress) const;

private:
  Artifact(std::string path, MappedFile file) : path_(std::move(path)), file_(std::move(file)) {}
  Status readHeader();
  Status readMetadata();
  Status verifyBytes(const std::function<bool(uint64_t, uint64_t)> &progress) const;

  std::string path_; ///< for messages
  MappedFile file_;
  ArtifactHeader header_{};
  const fb::Artifact *metadata_ = nullptr;
};

/// The rules of the format that the FlatBuffer verifier does not know: every index, enum, count,
/// product and range, and that the header's feature bits are those of the features in use.
Status validateMetadata(const fb::Artifact &artifact, const ArtifactHeader &header);

/// A description for people and pipelines, as JSON text.
std::string inspectArtifact(const Artifact &artifact);

} // namespace moeplan
