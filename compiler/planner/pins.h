// What a tier's pins decide, expert by expert.
#pragma once

#include "compiler/import/checkpoint.h"
#include "compiler/planner/placement.h"
#include "compiler/policy/policy.h"

#include "llvm/Support/Error.h"

#include <optional>
#include <vector>

namespace moeplan::compiler {

/// Of one expert: what is pinned; null or absent where the pins leave it open.
struct PinnedExpert {
  std::array<const FormatInfo *, 3> formats{}; ///< by Linear
  std::optional<Residency> residency;
};

/// Applies the pins to every expert, layer first; of those that match an expert or one of its
/// linears, the first that has a format gives the format, and the first that has a residency the
/// residency. Fails where a pin matches no expert, which is most likely a typing error.
llvm::Expected<std::vector<PinnedExpert>> pinnedExperts(const MixtralConfig &config,
                                                        const Tier &tier);

} // namespace moeplan::compiler
