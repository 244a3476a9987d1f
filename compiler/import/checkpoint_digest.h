// What a checkpoint holds, as digests.
#pragma once

#include "compiler/cache/build_cache.h"
#include "compiler/import/checkpoint.h"

#include <functional>
#include <map>

namespace moeplan::compiler {

/// Digests of a checkpoint's tensors, made as they are asked for. A file that a cache knows,
/// because it was read before and neither it nor its times have changed since, is not read for
/// them. For one thread at a time. Borrows both.
class CheckpointDigest {
public:
  CheckpointDigest(const Checkpoint &checkpoint, BuildCache &cache);

  /// Of dtype, shape and bytes. Brings the tensor into memory where the digest is not known.
  /// Errors: see Checkpoint::bringIn().
  llvm::Expected<std::string> of(const TensorInfo &tensor);
  bool isKnown(const TensorInfo &tensor) const { return digests_.contains(tensor.name); }

  /// Of configuration, names and digests of all tensors in the order of their names, and tokenizer;
  /// of a synthetic checkpoint over configuration and seed. Reads, on several threads, what is not
  /// known yet; `progress`, which may be empty, is told of the bytes read so far and in all.
  /// Remembers files in the cache.
  llvm::Expected<std::string> ofAll(const std::function<void(uint64_t, uint64_t)> &progress = {});

private:
  llvm::Error readRest(const std::function<void(uint64_t, uint64_t)> &progress);
  void recallFile(uint32_t index);
  void rememberFile(uint32_t index);
  /// Nothing where the file may change without its times showing it: it is too young.
  std::optional<CacheKey> keyOf(uint32_t index) const;

  const Checkpoint &checkpoint_;
  BuildCache &cache_;
  int64_t opened_;                                          ///< ns since the epoch
  std::map<std::string, std::string, std::less<>> digests_; ///< by the tensor's name
  std::vector<bool> recalled_;                              ///< by file
};

/// See CheckpointDigest::ofAll(): all of it is read.
llvm::Expected<std::string> digestOf(const Checkpoint &checkpoint);

} // namespace moeplan::compiler
