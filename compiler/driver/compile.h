// The whole road from a checkpoint to an artifact.
#pragma once

#include "compiler/driver/cuda_report.h"
#include "compiler/driver/report.h"

#include "llvm/Support/Error.h"
#include "llvm/Support/raw_ostream.h"

#include <functional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// Where compilation stops; each is a border with a verified form.
enum class Phase {
  Moe,     ///< imported: the model as it is
  Placed,  ///< one placed and fused copy of it per tier
  Plan,    ///< plans with offsets and barriers
  Artifact ///< the .moeplan file
};

inline constexpr uint64_t kDefaultCacheBytes = uint64_t(64) << 30;

struct CompileOptions {
  std::string checkpoint; ///< directory; empty where `config` says what is compiled
  std::string config;     ///< a config.json: weights are generated from `syntheticSeed`
  uint64_t syntheticSeed = 0;
  std::string policy; ///< TOML file; empty: one tier `default`, see below
  /// Instead of a policy: plans with their placements, as they are.
  std::vector<std::pair<std::string, Placement>> placements;
  std::string profile;          ///< TOML file of the machine; empty: the policy's, or none
  std::string expertFormat;     ///< without a policy: of all experts; empty: bf16
  std::string expertFormatFile; ///< without a policy: rules that come before expertFormat
  std::string nonExpertFormat;  ///< without a policy: of the other matrices; empty: bf16
  std::string statistics;       ///< .moestats file; empty: quantise without calibration
  std::string quantizer;        ///< see QuantizerChoice::parse(); empty: the defaults
  /// Formats that expert kernels must read besides those that occur, so that weights can be
  /// swapped.
  std::vector<std::string> alsoFormats;
  std::string canaryText;              ///< in place of the policy's canary.text, where not empty
  std::string kvFormat;                ///< of the KV cache: f32, bf16 or int8; empty: bf16
  std::string tuning;                  ///< see KernelTuning::parse(); empty: the defaults
  bool tune = false;                   ///< search it on this machine instead
  unsigned threads = 0;                ///< of the quantisers and of `tune`; 0: all cores
  std::string output;                  ///< file; empty: standard output for IR
  std::vector<std::string> targetCpus; ///< overrides the policy's; empty: the policy's, or "host"
  std::vector<std::string>
      targetCudas;              ///< overrides the policy's: "sm_80"; empty: the policy's, or none
  std::string cacheDirectory;   ///< of quantised weights and kernels; empty: none are kept
  bool cacheIsOptional = false; ///< where the directory cannot be made, none are kept
  uint64_t cacheBytes = kDefaultCacheBytes; ///< that it may take
  bool resume = false; ///< an error without a cache: there is nothing to continue with
  Phase compileTo = Phase::Artifact;
  bool paperPlanner = false; ///< planned tiers are planned as arXiv 2407.14417 does
  PaperOptions paper;        ///< of that; the memory is the tier's
  bool dryRun = false;      ///< plans are made and priced, nothing is written and no weight is read
  std::string dumpPhasesTo; ///< directory for moe.mlir, placed.mlir, plan.mlir
  bool printIrAfterAll = false; ///< to stderr, after each pass
  bool timing = false;          ///< of each pass, to stderr
  /// Called with what is done, as "pack", how much of it so far and in all, and the unit, "bytes"
  /// or in the plural; may be empty.
  std::function<void(const char *what, uint64_t done, uint64_t total, const char *unit)> progress;
  /// Called with one line for the user, without its end, before weights are streamed; may be empty.
  std::function<void(const std::string &)> notice;
};

/// What was made, for the closing line of a tool.
struct CompileReport {
  std::string tuning; ///< what `tune` found, as KernelTuning::parse() reads it
  uint64_t fileBytes = 0;
  size_t quantized = 0, fromCache = 0; ///< weights that were, and that had been before
  size_t plans = 0, kernels = 0;
  std::vector<std::string> targetCpus;
  CudaReport cuda; ///< empty without CUDA targets
  bool hasTokenizer = true;
  std::vector<std::string> canaryWarnings; ///< of plans that a runtime will leave
  bool canaryLeftOut = false; ///< the policy has one, but synthetic weights cannot be run here
  PlansReport placements;     ///< with a policy or in a dry run; else without tiers
  /// Quantised experts that calibration hardly reached: without their statistics.
  std::vector<std::string> hardlyReached;
};

/// Compiles. Errors are single lines for the user; IR is never printed into them.
llvm::Expected<CompileReport> compile(const CompileOptions &options);

} // namespace moeplan::compiler
