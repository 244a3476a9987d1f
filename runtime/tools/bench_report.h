// How `moeplan bench` presents what it has measured.
#pragma once

#include "runtime/tools/bench_measure.h"

#include <string>

namespace moeplan::tools {

/// A table of rates, what they are shares of, and a table of kernels where they were measured.
std::string benchMarkdown(const BenchOptions &options, const Measurement &measurement);

/// One key per fact, in the order of the columns of the CSV.
nlohmann::ordered_json benchJson(const BenchOptions &options, const Measurement &measurement);

/// A line of column names and a line of values; nested keys are joined: "..._per_second_median".
/// Behind an empty line the same for the kernels, a line each, where they were measured.
std::string benchCsv(const BenchOptions &options, const Measurement &measurement);

} // namespace moeplan::tools
