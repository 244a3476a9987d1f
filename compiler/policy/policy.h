// What a policy author asks for, read from TOML.
#pragma once

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

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

/// One plan to compile. The first pin that matches decides; what no pin decides is bf16 on the
/// host.
struct Tier {
  std::string name;
  std::vector<PinRule> pins;
  std::string nonExpertFormat; ///< of the matrices outside the experts; empty: bf16
};

struct Policy {
  std::vector<std::string> cpuTargets; ///< empty: from the command line, or the host
  std::vector<Tier> tiers;             ///< at least one
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

/// Parses a policy. Keys: `targets.cpu` (a list of CPU names) and `[[tier]]` with `name`,
/// `non_expert_format` and `pin` (a list of tables with `experts`, `format`, `residency`). Errors
/// are one line with file, line and column; an unknown key is refused with the nearest valid one.
llvm::Expected<Policy> parsePolicy(llvm::StringRef text, llvm::StringRef origin);

} // namespace moeplan::compiler
