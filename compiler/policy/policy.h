// What a policy author asks for, read from TOML.
#pragma once

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// An explicit placement for the experts, or linears of experts, whose name matches a glob.
struct PinRule {
  std::string experts; ///< "layers.0.*", "*.experts.3.w2"
  std::string format;  ///< empty: left to later rules
  std::string residency;
};

/// What is made as good as the limits allow.
enum class Preference { Quality, Throughput };

/// What a plan may take and must give. Absent: no limit.
struct TierLimits {
  std::optional<double> maxPerplexityIncrease; ///< over 16 bits, as a fraction: 0.01 is 1 %
  std::optional<double> minTokensPerSecond;    ///< decoding
  std::optional<uint64_t> deviceMemory;        ///< bytes, everything counted
  std::optional<uint64_t> hostMemory;
  std::optional<double> bitsPerWeight; ///< mean over the experts' weights, scales included
};

/// One plan to compile. The first pin that matches decides; what no pin decides is up to the
/// planner where the tier is planned(), else bf16 on the host.
struct Tier {
  std::string name;
  std::vector<PinRule> pins;
  std::string nonExpertFormat;      ///< of the matrices outside the experts; empty: bf16
  std::optional<Preference> prefer; ///< absent in a planned tier: quality
  TierLimits limits;                ///< those of the policy where the tier has none of its own
  std::vector<std::string> formats; ///< full names the planner may use; empty: its defaults
  std::string misses;               ///< name of a miss strategy; empty: up to the planner
  uint32_t cacheSlots = 0;          ///< per layer, where that is "cached"; 0: up to the planner
  bool planned = false; ///< has `prefer`, `formats` or a limit (its own or the policy's)
};

/// When a running plan is compared with what was compiled, and how far it may be off.
struct CanaryPolicy {
  std::string text;         ///< path as it is to be opened, of held-out text; empty: none
  uint32_t tokens = 256;    ///< of it
  uint64_t everyTokens = 0; ///< generated between two checks; 0: after a switch only
  std::optional<double> maxPerplexityIncrease; ///< over 16 bits, as a fraction
  std::optional<double> maxDivergence;         ///< Kullback-Leibler, nats per token
};

/// How plans are switched.
struct SwitchPolicy {
  double bandwidthShare = 0.5; ///< of the copy bandwidth, for staging while tokens are decoded
  double hysteresis = 0.05;    ///< share of the budget that must be left over before moving up
  double minSeconds = 10;      ///< between two switches that a budget causes
};

struct Policy {
  std::vector<std::string> cpuTargets;  ///< empty: from the command line, or the host
  std::vector<std::string> cudaTargets; ///< "sm_80"
  std::string profile;                  ///< path as it is to be opened; empty: none
  uint32_t context = 4096;              ///< positions that the KV cache has room for
  uint32_t batch = 1;                   ///< sequences
  std::optional<CanaryPolicy> canary;
  std::optional<SwitchPolicy> switching;
  std::vector<Tier> tiers; ///< at least one
};

/// The policy without a file: one tier `default`, every expert bf16 on the host.
Policy defaultPolicy();

/// Parses lines of `PATTERN FORMAT`, as `layers.3.experts.5.w2 int8g64`, into rules; '#' starts a
/// comment. Errors name file and line.
llvm::Expected<std::vector<PinRule>> parseExpertFormats(llvm::StringRef text,
                                                        llvm::StringRef origin);

/// The full name of a format: as it is, or for a bare `int8`, `int4`, `int3`, `int2` that of the
/// group size that serves best. Fails, naming the known ones, for an unknown format.
llvm::Expected<std::string> resolveFormat(llvm::StringRef name);

/// Parses a policy; examples/policies/README.md has its keys. Errors are one line with file, line
/// and column; an unknown key is refused with the nearest valid one. `origin` is the file's path,
/// from whose folder the profile's path is taken.
llvm::Expected<Policy> parsePolicy(llvm::StringRef text, llvm::StringRef origin);

} // namespace moeplan::compiler
