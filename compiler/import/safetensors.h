// The files a checkpoint is made of: mapping them, and reading their JSON and safetensors headers.
#pragma once

#include "checkpoint.h"

#include "llvm/ADT/Twine.h"

#include <nlohmann/json.hpp>

namespace moeplan::compiler {

/// An error of one line. Control characters and broken UTF-8, which names in a file may contain,
/// are made visible, so that a file cannot forge lines of a log.
llvm::Error importError(const llvm::Twine &message);

/// What was found, as messages end: `file has "gelu"`, or `missing` where `value` is null.
std::string describe(const nlohmann::json *value);
/// "[2, 3]"
std::string formatShape(llvm::ArrayRef<uint64_t> shape);

/// A regular file, mapped read-only. Reads of a file that is cut while it is mapped raise SIGBUS,
/// as with every mapping. Immutable; may be used from several threads.
class MappedFile {
public:
  /// Maps `path`. Errors carry the path and the system's reason.
  static llvm::Expected<MappedFile> open(const std::string &path);

  MappedFile() = default;
  MappedFile(MappedFile &&other) noexcept : bytes_(other.bytes_) { other.bytes_ = {}; }
  MappedFile &operator=(MappedFile &&other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  /// The whole file; valid as long as this object.
  llvm::ArrayRef<uint8_t> bytes() const { return bytes_; }
  llvm::StringRef text() const {
    return {reinterpret_cast<const char *>(bytes_.data()), bytes_.size()};
  }
  /// Drops from resident memory the whole pages inside `range`, a part of bytes(). They are read
  /// from the file again when touched.
  void release(llvm::ArrayRef<uint8_t> range) const;

private:
  llvm::ArrayRef<uint8_t> bytes_;
};

/// Parses JSON more strictly than JSON asks for: a key that stands twice in one object is refused,
/// as are deep nesting and texts over 100 MB. Errors name `origin` and the position.
llvm::Expected<nlohmann::json> parseJson(llvm::StringRef text, llvm::StringRef origin);

/// Reads the header of a safetensors file and checks it against `file`, the whole file: every
/// tensor has a supported dtype and exactly the bytes that its shape asks for, and the tensors
/// cover the data without overlap, hole or rest. Returns them in the order of their data, with
/// `file` index 0. Format: https://github.com/huggingface/safetensors#format
llvm::Expected<std::vector<TensorInfo>> parseSafetensorsHeader(llvm::ArrayRef<uint8_t> file,
                                                               llvm::StringRef origin);

} // namespace moeplan::compiler
