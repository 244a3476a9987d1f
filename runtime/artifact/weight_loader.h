// Brings weights from the file of an artifact into memory ahead of their use.
#pragma once

#include "moeplan_generated.h"
#include "runtime/device/memory.h"
#include "runtime/support/mapped_file.h"
#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace moeplan {

/// Where the bytes of weights come from.
enum class LoadMode {
  mapped, ///< from the page cache, read when they are touched
  read,   ///< from memory of this process, filled through the page cache
  direct  ///< the same, past the page cache
};

struct LoadOptions {
  LoadMode experts = LoadMode::mapped, others = LoadMode::mapped;
  bool preload = false;           ///< mapped ones are read and mapped at once
  bool hugePages = false;         ///< asked for, for those that are not mapped
  unsigned threads = 0;           ///< that read; 0: enough for a fast disk
  const fb::Plan *plan = nullptr; ///< whose weights; null: those of all plans
  /// Called on the thread that loads, with bytes so far and in all; false: stop with
  /// MOEPLAN_CANCELLED. May be empty.
  std::function<bool(uint64_t, uint64_t)> progress = {};
};

/// Weight segments in the order in which the plan's decode program reads them, each once; what only
/// its other programs read behind them. `plan` null: of all plans, one behind the other.
std::vector<uint32_t> weightsInProgramOrder(const fb::Artifact &artifact, const fb::Plan *plan);

/// Weights in memory of this process. Immutable; may be used from several threads.
class LoadedWeights {
public:
  LoadedWeights() = default; ///< none

  /// Loads as `options` say; those that stay mapped are no part of the result. Segments begin at
  /// `segmentBase` in `file`. Errors: MOEPLAN_RESOURCE_EXHAUSTED where they do not fit in what the
  /// machine has left, MOEPLAN_IO_ERROR, MOEPLAN_UNSUPPORTED where the file system has no direct
  /// reads, MOEPLAN_CANCELLED.
  static Result<LoadedWeights> load(const fb::Artifact &artifact, const MappedFile &file,
                                    uint64_t segmentBase, const LoadOptions &options);

  /// The bytes of segment `index`, page-aligned; empty where it was not loaded.
  std::span<const std::byte> operator[](uint32_t index) const {
    return bytes_.empty() ? std::span<const std::byte>() : bytes_[index];
  }

private:
  HostMemory memory_;
  std::vector<std::span<const std::byte>> bytes_; ///< per segment
};

} // namespace moeplan
