// The canary of an artifact: held-out tokens, and what its plans and the 16-bit model make of them.
#pragma once

#include "compiler/import/checkpoint.h"
#include "compiler/pack/metadata.h"
#include "compiler/policy/policy.h"

#include "llvm/Support/Error.h"

#include <functional>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// The first tokens of the policy's text, BOS before them where the model has one; of a checkpoint
/// without a tokenizer numbers from a fixed seed. `text` takes the place of the policy's where it
/// is not empty. Nothing is computed yet. Errors name the text.
llvm::Expected<CanaryFacts> readCanary(const Checkpoint &checkpoint, const CanaryPolicy &policy,
                                       const std::string &text);

/// Compiles the model in 16 bits to a file.
using CompileReference = std::function<llvm::Error(const std::string &path)>;

/// Runs every plan of the artifact at `path`, which need not be committed, over the canary of
/// `facts`, and fills in what they make of it. Where no plan has all its weights in 16 bits or
/// more, one is compiled to `referencePath`, which is removed behind it. `threads` 0: all cores.
/// Errors: where this machine can run none of the artifact's kernels.
llvm::Error scoreCanary(const std::string &path, const std::string &referencePath,
                        const CompileReference &compileReference, unsigned threads,
                        CanaryFacts &facts);

/// A line for each plan that is further from the reference than the policy allows: a runtime leaves
/// it.
std::vector<std::string> canaryWarnings(const CanaryPolicy &policy, const CanaryFacts &facts);

} // namespace moeplan::compiler
