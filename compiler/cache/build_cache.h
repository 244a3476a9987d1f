// What compilations made and others may need again: quantised tensors, kernels, digests of files.
#pragma once

#include "compiler/support/digest.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/MemoryBuffer.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

namespace moeplan::compiler {

/// Names all that decides an entry.
class CacheKey : public ListDigest {
public:
  /// `kind` is of the entry: "weight"; it ends the name of its file.
  explicit CacheKey(llvm::StringRef kind) : kind_(kind.str()) { add(kind); }
  const std::string &kind() const { return kind_; }

private:
  std::string kind_;
};

/// A directory of entries by their keys. May be used from several threads, and the directory by
/// several processes at once: an entry appears whole, is checked when it is read, and one that is
/// evicted stays readable for who has it.
class BuildCache {
public:
  /// Keeps nothing.
  BuildCache() = default;
  /// Makes `directory` where it is not there; empty: nothing is kept. `maxBytes`: beyond it, what
  /// has not been used for longest goes, but nothing that was used since now: rather is no more
  /// stored, so that a compilation which is larger than the cache finds a part of itself again.
  static llvm::Expected<std::unique_ptr<BuildCache>> open(std::string directory, uint64_t maxBytes);
  ~BuildCache();
  BuildCache(const BuildCache &) = delete;
  BuildCache &operator=(const BuildCache &) = delete;

  bool isOn() const { return !directory_.empty(); }
  bool contains(const CacheKey &key) const;
  /// The entry, mapped; null where there is none, or one that was damaged.
  std::unique_ptr<llvm::MemoryBuffer> find(const CacheKey &key) const;
  /// Does nothing where the file system would be left with less than `leaveFree` bytes, or the
  /// cache is full: it is a convenience. Returns whether the entry was stored. Not flushed to the
  /// disk: a power failure may damage entries, which is found out when they are read.
  bool store(const CacheKey &key, llvm::ArrayRef<uint8_t> bytes, uint64_t leaveFree = 0);

  /// `$XDG_CACHE_HOME/moeplan`, or `~/.cache/moeplan`; empty where neither is known.
  static std::string defaultDirectory();

private:
  BuildCache(std::string directory, uint64_t maxBytes)
      : directory_(std::move(directory)), maxBytes_(maxBytes),
        opened_(std::chrono::system_clock::now()) {}
  std::string pathOf(const CacheKey &key) const;
  /// Counts `bytes` that are about to be stored; false where there is no room for them.
  bool makeRoom(uint64_t bytes);
  /// Evicts down to nine tenths of the limit, where entries are old enough; without effect while
  /// another process does.
  void trim();

  std::string directory_;
  uint64_t maxBytes_ = 0;
  std::chrono::system_clock::time_point opened_;
  std::mutex mutex_;
  uint64_t bytes_ = 0;  ///< in the directory, as far as this process knows
  bool isFull_ = false; ///< of what may not be evicted
};

} // namespace moeplan::compiler
