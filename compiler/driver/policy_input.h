// The policy of a compilation: read, or made of options.
#pragma once

#include "compiler/driver/compile.h"
#include "compiler/policy/policy.h"

#include "llvm/Support/Error.h"

#include <string>

namespace moeplan::compiler {

struct PolicyInput {
  Policy policy;
  std::string digest; ///< of the text it came from; empty where there is none
};

/// `options.policy`, or one tier with the formats that the options name. Errors are single lines
/// that say which file or option is wrong, and where.
llvm::Expected<PolicyInput> readPolicyInput(const CompileOptions &options);

} // namespace moeplan::compiler
