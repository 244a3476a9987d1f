// What a choice for one expert costs, and what a whole placement does.
#pragma once

#include "compiler/import/checkpoint.h"
#include "compiler/planner/placement.h"
#include "compiler/planner/quality_model.h"
#include "compiler/profile/profile.h"
#include "kv_formats.h"

#include <optional>
#include <vector>

namespace moeplan::compiler {

/// What is the same for all placements of a tier.
struct WorkloadInfo {
  uint32_t context = 4096; ///< positions of the KV cache, per sequence
  uint32_t batch = 1;      ///< sequences
  moeplan_kv_format kvFormat = MOEPLAN_KV_BF16;
  const FormatInfo *nonExpertFormat = nullptr; ///< of the matrices outside the experts
  uint64_t activationBytes = 0; ///< besides weights and KV cache: the largest arena above all
};

/// Prices placements of a model on a machine. Bytes are exact; seconds follow the formulas of
/// Processor, with these for an expert in host memory where the rest runs on a device (b its bytes,
/// t_d, t_h the time to read them on the device and on the CPU):
///   stream        latency + b / pinned rate + t_d
///   in_place      b / in-place rate
///   host_compute  latency + t_h
///   cached        t_d + miss probability * (latency + b / pinned rate)
/// An expert counts as often as a step uses it: 1 - (1 - p)^batch, p its routing probability. The
/// KV cache is taken to be half full. Nothing is assumed to overlap. Prompts under host_compute
/// read in place, as on a GPU.
class CostModel {
public:
  /// All arguments are copied. Without a profile there is no device, and no time is predicted.
  CostModel(const MixtralConfig &config, QualityModel quality, std::optional<Profile> profile,
            const WorkloadInfo &workload);

  bool hasDevice() const { return profile_ && profile_->device; }
  bool hasTimes() const { return profile_.has_value(); }
  const MixtralConfig &config() const { return config_; }
  const QualityModel &quality() const { return quality_; }
  const std::optional<Profile> &profile() const { return profile_; }
  const WorkloadInfo &workload() const { return workload_; }
  uint32_t numExperts() const { return config_.numLayers * config_.numExperts; }

  uint64_t bytes(Linear linear, const FormatInfo &format) const;
  uint64_t bytes(const ExpertPlacement &expert) const;
  /// Weights in an expert's three linears.
  uint64_t expertElements() const;
  /// Everything outside the experts.
  uint64_t nonExpertBytes() const { return nonExpertBytes_; }
  /// Of the memory that holds what is not expert weights, by kind; `weights` without experts.
  MemoryUse fixedUse() const;
  /// Bytes that `strategy` takes on the device for host experts of up to `largest` bytes.
  uint64_t stagingBytes(MissStrategy strategy, uint32_t cacheSlots, uint64_t largest) const;

  /// Share of weights that comes from the last-level cache when a memory holds `weights` bytes.
  static double cachedShare(const Processor &processor, uint64_t weights);
  /// Seconds of a decode step that do not depend on the placement.
  double fixedSeconds(double cachedShare) const;
  /// How often a decode step uses an expert.
  double usage(uint32_t expert) const { return usage_[expert]; }
  /// Seconds of a decode step that one use of a linear takes. `hit`: with Cached, the probability
  /// that its expert is in a slot.
  double linearSeconds(Linear linear, const FormatInfo &format, Residency residency,
                       MissStrategy strategy, double hit, double cachedShare) const;
  /// What a use of an expert in host memory takes besides its linears.
  double missSeconds(MissStrategy strategy, double hit) const;
  /// Probability that an expert in host memory is found in one of `slots` slots of its layer, which
  /// `hosts` experts share: least recently used, independent draws (Che, Tung and Wang, JSAC 2002).
  /// Parallel to `hosts`, which are numbers of experts.
  std::vector<double> hitProbabilities(llvm::ArrayRef<uint32_t> hosts, uint32_t slots) const;

  PlacementCosts evaluate(const Placement &placement) const;

private:
  const Processor &main() const { return hasDevice() ? *profile_->device : profile_->host; }
  double readSeconds(const Processor &processor, const FormatInfo &format, uint64_t bytes,
                     double cachedShare) const;
  double prefillSecondsPerToken(const Placement &placement) const;

  MixtralConfig config_;
  QualityModel quality_;
  std::optional<Profile> profile_;
  WorkloadInfo workload_;
  std::vector<double> usage_;
  uint64_t nonExpertBytes_ = 0;    ///< held
  uint64_t matrixReadBytes_ = 0;   ///< of them, matrices that a step reads whole
  uint64_t vectorReadBytes_ = 0;   ///< float32: norms and router gates
  uint64_t nonExpertElements_ = 0; ///< multiplied for each token
};

} // namespace moeplan::compiler
