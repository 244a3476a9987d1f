// What was compiled, for people and for pipelines.
#pragma once

#include "compiler/driver/cuda_report.h"
#include "compiler/driver/storage.h"
#include "compiler/planner/planner.h"
#include "compiler/policy/policy.h"

#include <optional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// A tier and the placement that was made of it.
struct TierReport {
  Tier tier;
  PlannedTier plan;
};

struct PlansReport {
  std::vector<TierReport> tiers;
  uint32_t context = 0, batch = 0;
  std::string profile;       ///< name of the machine; empty: no profile, so no speed
  std::string qualitySource; ///< a sentence
  uint32_t numExperts = 0;   ///< of all layers
  bool hasDevice = false;
  std::optional<StorageReport> storage; ///< once plans exist
};

/// Tables: a row per plan; what is stored and shared; bytes to move between plans.
std::string printPlans(const PlansReport &report);
/// The same with exact bytes, and the kernels for devices where there are any, as JSON with keys in
/// a fixed order.
std::string plansJson(const PlansReport &report, const CudaReport &cuda);
/// "int8g64 x 512, int4g32 x 256": linears by format, widest first.
std::string formatCounts(const Placement &placement);

} // namespace moeplan::compiler
