// The frontier: placements that were found for a sweep of budgets, ours and the baseline's.
#pragma once

#include "compiler/planner/placement.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// What a plan gave when it ran on this machine's CPU.
struct MeasuredPlan {
  double perplexity = 0;
  double perplexityIncrease = 0; ///< over the reference, as a fraction
  double standardError = 0;      ///< of perplexityIncrease, over windows
  double tokensPerSecond = 0;
};

struct FrontierPoint {
  std::string name;         ///< unique: a tier's name, or "ours-36.13GB", "paper-36.13GB"
  bool isTier = false;      ///< asked for by the policy
  bool isPaper = false;     ///< made by the paper's planner
  bool onFrontier = false;  ///< no point of the list beats it in quality, speed and memory at once
  uint64_t budgetBytes = 0; ///< that it was planned for; 0: none
  Placement placement;
  PlacementCosts costs;
  double gap = 0; ///< relative distance of the objective to its lower bound; 0 for the paper's
  std::optional<MeasuredPlan> measured;
};

struct Frontier {
  std::string model;         ///< "mixtral-8x7b"
  std::string profile;       ///< name of the machine
  std::string qualitySource; ///< what quality was predicted from, a sentence
  uint32_t numLayers = 0, numExperts = 0, numExpertsPerToken = 0;
  uint32_t context = 0, batch = 0;
  bool hasDevice = false;                    ///< budgets are of device memory; else of host memory
  std::optional<double> referencePerplexity; ///< measured with 16 bits
  std::vector<FrontierPoint> points;
};

/// A header and a row per point; predicted columns, then measured ones, empty where not measured.
std::string frontierCsv(const Frontier &frontier);
/// Everything, the placements with a string per layer too; keys in a fixed order.
std::string frontierJson(const Frontier &frontier);
/// A page that needs no network: chart, tooltips and a heat map of layer x expert for each point.
std::string frontierHtml(const Frontier &frontier);

/// Marks the points that no other beats.
void markFrontier(Frontier &frontier);

} // namespace moeplan::compiler
