// Finds a placement for what a tier asks for.
#pragma once

#include "compiler/planner/cost_model.h"
#include "compiler/planner/placement.h"
#include "compiler/policy/policy.h"

#include "llvm/Support/Error.h"

namespace moeplan::compiler {

struct PlannedTier {
  Placement placement;
  PlacementCosts costs;
  /// Relative distance of the objective (nats per token or seconds per step) to a bound that no
  /// placement with this miss strategy and these buffers can beat; 0: optimal. Below a thousandth
  /// of a nat, which nobody can measure, relative to that.
  double gap = 0;
};

/// The best placement by the tier's preference within its limits, pins and formats; everything is
/// counted against the memories: weights, KV cache, activations, swap buffers, the device's
/// context. The miss strategy is the one with the best result. Where the tier states no limit for a
/// memory, the profile's size of it holds. Deterministic. 256 experts with 5 formats take less than
/// a second.
///
/// Fails, with one line that says by how much each limit is missed, where nothing is within them;
/// and where the tier asks for what `model` cannot say: times without a profile, device memory
/// without a device, formats without known quality.
llvm::Expected<PlannedTier> planTier(const CostModel &model, const Tier &tier);

/// What the tier's pins decide. Fails where one matches nothing.
llvm::Expected<Placement> applyPins(const CostModel &model, const Tier &tier);

/// The planner of arXiv 2407.14417, as the baseline: 16 and 4 bits, 4-bit experts chosen at random,
/// 4-bit experts first on the device, misses streamed.
struct PaperOptions {
  uint64_t deviceMemory = 0; ///< bytes
  /// Quality mode: so many 4-bit experts. Absent: throughput mode, as many 16-bit experts as fit
  /// when all are on the device, or none, and the overflow of 4-bit ones on the host.
  std::optional<uint32_t> num4Bit;
  uint64_t seed = 0;
  const FormatInfo *format4 = nullptr; ///< null: int4g128, the nearest to the paper's NF4
};
/// Never fails: what does not fit is on the host. Without a device all is, and `deviceMemory` is the
/// host's. The paper's formula is applied to the memory that
/// is left when what it does not know of (KV cache, activations, context) is taken away.
PlannedTier planAsPaper(const CostModel &model, const PaperOptions &options);

} // namespace moeplan::compiler
