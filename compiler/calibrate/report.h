// What a file of statistics says, for people and for pipelines.
#pragma once

#include "compiler/calibrate/statistics.h"

#include <string>
#include <vector>

namespace moeplan::compiler {

/// Spearman's rank correlation of two sequences of the same length, ties sharing their mean rank.
/// Nothing where there are fewer than two elements or all of one are equal.
std::optional<double> rankCorrelation(llvm::ArrayRef<double> a, llvm::ArrayRef<double> b);

/// Experts that saw fewer than WeightQuantizer::kFewestTokens calibration tokens, by name.
std::vector<std::string> hardlyReachedExperts(const Statistics &statistics);

/// Tables of routing and of sensitivities, predicted beside measured with their rank correlation
/// where there are measurements. Ends with a newline.
std::string printStatistics(const Statistics &statistics);
/// Everything but the moments, as JSON text.
std::string statisticsJson(const Statistics &statistics);

} // namespace moeplan::compiler
