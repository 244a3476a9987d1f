// What a machine can do, read from the TOML file that `moeplan profile` writes.
#pragma once

#include "formats.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace moeplan::compiler {

/// How fast a processor goes through weights of one format.
struct KernelRate {
  double decodeBytesPerSecond = 0; ///< of weights that lie in memory, for one token
  double decodeCachedBytesPerSecond =
      0; ///< of weights that the last-level cache holds; 0: as above
  double prefillOperationsPerSecond = 0; ///< a multiplication and an addition being two
};

/// A processor and its memory: the CPU's cores with host memory, or a device with its own.
///
/// A decode step takes
///   token_seconds + num_layers * layer_seconds + cached keys and values / kv_bytes_per_second
///   + sum over matrices of bytes / rate,
/// where rate blends the two decode rates of the matrix's format: with W bytes of weights in this
/// memory and C of cache, a share min(1, C / W) of them is read at the cached rate. A CPU's attention is
/// bound by arithmetic: there keys and values count once for each query head that reads them.
/// A prompt token takes
///   num_layers * prefill_layer_seconds + operations / prefill_operations_per_second.
struct Processor {
  std::string name;
  uint64_t memoryBytes = 0;
  uint64_t cacheBytes = 0;       ///< of the last level, for weights; 0: not modelled
  uint64_t contextBytes = 0;     ///< of memory that is taken before anything is loaded
  double readBytesPerSecond = 0; ///< of memory, with the threads that the rates are for
  double tokenSeconds = 0, layerSeconds = 0, prefillLayerSeconds = 0;
  double kvBytesPerSecond = 0;
  /// By format ("int4g32") or by width of codes ("int4"), which holds for all its group sizes.
  std::map<std::string, KernelRate> kernels;

  /// The rate of a format: its own or its width's; null where the profile has neither.
  const KernelRate *rate(const FormatInfo &format) const;
};

/// Between host and device memory, towards the device.
struct TransferRates {
  double pageableBytesPerSecond = 0, pinnedBytesPerSecond = 0;
  double inPlaceBytesPerSecond = 0; ///< a kernel that reads pinned host memory through the bus
  double latencySeconds = 0;        ///< of a copy, or of handing a step to the other processor
};

struct Profile {
  std::string name;
  Processor host;
  unsigned hostThreads = 0;                          ///< that the rates of `host` are for
  std::map<unsigned, double> hostReadBytesPerSecond; ///< by threads
  std::optional<Processor> device;
  TransferRates transfer; ///< of the device
};

/// Parses a profile. Errors are one line with file, line and column; an unknown key is refused with
/// the nearest valid one.
llvm::Expected<Profile> parseProfile(llvm::StringRef text, llvm::StringRef origin);
llvm::Expected<Profile> readProfile(llvm::StringRef path);

} // namespace moeplan::compiler
