// What quantising each linear of each expert costs, and how often each expert is used.
#pragma once

#include "compiler/calibrate/statistics.h"
#include "compiler/import/checkpoint.h"
#include "formats.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <array>
#include <map>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// Quality and routing of a model. Costs add up: the divergence that an error causes is second
/// order in it, and errors of different linears are as good as uncorrelated (compiler/calibrate).
class QualityModel {
public:
  /// From calibration: predicted sensitivities of the formats in it, and routing frequencies. Bf16
  /// and f32 cost nothing. `statistics` is read here and not kept.
  static QualityModel fromStatistics(const Statistics &statistics);
  /// Without calibration: published perplexities of Mixtral 8x7B with all experts at about so many
  /// bits, shared out evenly over the weights of all experts, and even routing. A stand-in that
  /// says nothing about which expert matters.
  static QualityModel published(const MixtralConfig &config);

  /// Formats with a known cost, widest first.
  llvm::ArrayRef<const FormatInfo *> formats() const { return formats_; }
  bool knows(const FormatInfo &format) const;
  /// Increase of the negative log-likelihood, nats per token. `expert`: layer * num_experts +
  /// index.
  double nats(uint32_t expert, Linear linear, const FormatInfo &format) const;
  /// Probability that a token is routed to the expert; they sum to num_experts_per_tok in each
  /// layer.
  double routing(uint32_t expert) const { return routing_[expert]; }
  /// Where the costs come from, as a sentence for reports.
  const std::string &source() const { return source_; }

private:
  std::vector<const FormatInfo *> formats_;
  /// By format: [experts][3].
  std::map<moeplan_format, std::vector<std::array<double, 3>>> nats_;
  std::vector<double> routing_;
  std::string source_;
};

/// What published() shares out: relative increase of perplexity with all experts in `format`.
struct PublishedQuality {
  moeplan_format format;
  double perplexityIncrease; ///< a fraction
  const char *source;
};
llvm::ArrayRef<PublishedQuality> publishedQualities();

} // namespace moeplan::compiler
