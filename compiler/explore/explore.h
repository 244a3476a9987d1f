// Sweeps memory budgets and draws the frontier.
#pragma once

#include "compiler/explore/frontier.h"

#include "llvm/Support/Error.h"

#include <functional>
#include <string>
#include <vector>

namespace moeplan::compiler {

struct ExploreOptions {
  std::string checkpoint;        ///< directory; empty where `config` says what is explored
  std::string config;            ///< a config.json
  std::string policy;            ///< TOML: its tiers are marked, its formats and workload hold
  std::string profile;           ///< TOML; empty: the policy's, or none
  std::string statistics;        ///< .moestats; empty: published quality
  std::string kvFormat;          ///< empty: bf16
  unsigned numBudgets = 10;      ///< evenly spaced, where `budgets` is empty
  std::vector<uint64_t> budgets; ///< bytes: of device memory, or of host memory without a device
  uint64_t seed = 0;             ///< of the paper's planner
  bool measure = false;          ///< perplexity and speed of every point, on this machine's CPU
  std::string text;              ///< to measure perplexity on; UTF-8 file
  uint32_t windowContext = 0;    ///< positions of a window, BOS included; 0: 512 or the model's
  uint32_t maxWindows = 64;
  unsigned threads = 0; ///< 0: physical cores
  std::string output;   ///< directory
  /// Called with what is done now, how far it is and of how much; may be empty.
  std::function<void(const char *label, uint64_t done, uint64_t total, const char *unit)> progress;
};

struct ExploreReport {
  Frontier frontier;
  std::vector<std::string> infeasible; ///< why tiers and budgets have no point, a line each
};

/// For each budget the paper's placement, and ours within the same memory and at least as fast; and
/// one point per tier. Writes frontier.csv, frontier.json and frontier.html into the directory.
/// Errors are single lines.
llvm::Expected<ExploreReport> explore(const ExploreOptions &options);

} // namespace moeplan::compiler
