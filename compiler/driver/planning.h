// From a policy to a placement per tier.
#pragma once

#include "compiler/import/checkpoint.h"
#include "compiler/planner/planner.h"
#include "compiler/policy/policy.h"

#include "llvm/Support/Error.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// Bytes besides weights and KV cache that any placement of the model in `expertFormats` needs: the
/// largest arena, of the model lowered as if every expert had all of them; of programs for a CUDA
/// device where `forCuda`, with what a session takes there whatever its plan is.
llvm::Expected<uint64_t> activationBytes(const Checkpoint &checkpoint,
                                         llvm::ArrayRef<std::string> expertFormats,
                                         llvm::StringRef nonExpertFormat, llvm::StringRef kvFormat,
                                         bool forCuda);

/// Plans the tiers of a policy. Borrows the checkpoint.
class Planning {
public:
  /// `profilePath` overrides the policy's; both empty: no profile. `statistics` may be null:
  /// quality is then predicted from published figures. `kvFormat`: empty is bf16. `forCuda`: the
  /// profile's device runs programs of its own.
  static llvm::Expected<Planning> create(const Checkpoint &checkpoint, const Policy &policy,
                                         llvm::StringRef profilePath, const Statistics *statistics,
                                         llvm::StringRef kvFormat, bool forCuda);

  /// What placements of a tier cost: depends on its format outside the experts alone.
  llvm::Expected<const CostModel *> costModel(const Tier &tier);
  /// The planner's placement of a planned tier, else what its pins say.
  llvm::Expected<PlannedTier> plan(const Tier &tier);
  /// The paper's placement of a planned tier within its device memory, or its host memory where
  /// there is no device; nothing else of the tier is looked at. Fails where there is no such limit,
  /// or where the placement does not fit.
  llvm::Expected<PlannedTier> planLikePaper(const Tier &tier, PaperOptions options);

  const std::optional<Profile> &profile() const { return profile_; }
  /// XXH3-128 of the profile's text, in hex; empty without one.
  const std::string &profileDigest() const { return profileDigest_; }
  const QualityModel &quality() const { return *quality_; }

private:
  Planning() = default;
  /// Whether there are programs for CUDA devices; their absence is an error that is told later.
  bool isForCuda(llvm::StringRef nonExpertFormat) const;

  const Checkpoint *checkpoint_ = nullptr;
  uint32_t context_ = 0, batch_ = 0;
  bool forCuda_ = false;
  std::string kvFormat_, profileDigest_;
  std::optional<Profile> profile_;
  std::optional<QualityModel> quality_;
  std::vector<std::string> formats_;                         ///< that any tier may use
  std::map<std::string, std::unique_ptr<CostModel>> models_; ///< by format outside the experts
};

} // namespace moeplan::compiler
