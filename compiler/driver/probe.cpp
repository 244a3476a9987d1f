#include "compiler/driver/probe.h"

#include "compiler/driver/compile.h"
#include "compiler/pack/atomic_file.h"

#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"

using namespace llvm;
using namespace moeplan::compiler;

namespace {

struct ProbeShape {
  StringRef name;
  unsigned hidden, intermediate, layers, experts, vocabulary;
  unsigned heads, keyValueHeads, headDim;
  unsigned plans; ///< the first of kPlans
};

// memory: 402 million expert weights, 805 MB in bf16 and 113 MB in int2.
// cache: 3.7 million weights, 7.0 MB in bf16: fits 8 MiB, a small server's last-level cache.
// layers: 1.2 million weights over 12 layers, of which a token reads 0.8 million.
// Attention is shared out by KV heads: as many of them as small machines have threads.
constexpr ProbeShape kProbes[] = {
    {"memory", 2048, 4096, 2, 8, 4096, 16, 4, 128, 5},
    {"cache", 256, 512, 2, 4, 512, 8, 2, 32, 5},
    {"layers", 64, 64, 12, 4, 256, 8, 4, 32, 1},
};

struct ProbePlan {
  StringRef experts, nonExperts;
};

constexpr ProbePlan kPlans[] = {
    {"bf16", "bf16"},       {"int8g64", "int8g64"}, {"int4g32", "int4g32"},
    {"int3g32", "int4g32"}, {"int2g32", "int4g32"},
};

std::string configText(const ProbeShape &probe) {
  return formatv(R"({{
  "architectures": ["MixtralForCausalLM"],
  "model_type": "mixtral",
  "hidden_size": {0},
  "intermediate_size": {1},
  "num_hidden_layers": {2},
  "num_local_experts": {3},
  "num_experts_per_tok": 2,
  "vocab_size": {4},
  "num_attention_heads": {5},
  "num_key_value_heads": {6},
  "head_dim": {7},
  "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-05,
  "rope_theta": 1000000.0,
  "hidden_act": "silu",
  "bos_token_id": 1,
  "eos_token_id": 2,
  "tie_word_embeddings": false,
  "sliding_window": null,
  "torch_dtype": "bfloat16"
}
)",
                 probe.hidden, probe.intermediate, probe.layers, probe.experts, probe.vocabulary,
                 probe.heads, probe.keyValueHeads, probe.headDim)
      .str();
}

std::string policyText(unsigned plans) {
  std::string text;
  for (const ProbePlan &plan : ArrayRef(kPlans).take_front(plans))
    text += formatv("[[tier]]\nname = \"{0}\"\nnon_expert_format = \"{1}\"\n"
                    "pin = [{{ experts = \"*\", format = \"{0}\" }]\n",
                    plan.experts, plan.nonExperts);
  return text;
}

} // namespace

Expected<std::vector<std::string>> moeplan::compiler::makeProbes(const ProbeOptions &options) {
  if (std::error_code error = sys::fs::create_directories(options.directory))
    return createStringError(options.directory + ": " + error.message());
  auto pathOf = [&](const Twine &name) {
    SmallString<128> path(options.directory);
    sys::path::append(path, name);
    return std::string(path);
  };
  // Inputs of compile(), which are nobody's business once the probes are made.
  const std::string policy = pathOf("probe.policy.toml"), config = pathOf("probe.config.json");
  auto remove = make_scope_exit([&] {
    (void)sys::fs::remove(policy);
    (void)sys::fs::remove(config);
  });
  std::vector<std::string> paths;
  for (const ProbeShape &probe : kProbes) {
    if (Error error = writeTextFile(policy, policyText(probe.plans)))
      return error;
    if (Error error = writeTextFile(config, configText(probe)))
      return error;
    CompileOptions compilation;
    compilation.config = config;
    compilation.syntheticSeed = 1;
    compilation.policy = policy;
    compilation.targetCpus = options.targetCpus;
    compilation.output = pathOf(probe.name + ".moeplan");
    auto report = compile(compilation);
    if (!report)
      return report.takeError();
    paths.push_back(compilation.output);
    if (options.progress)
      options.progress(paths.size(), std::size(kProbes));
  }
  return paths;
}
