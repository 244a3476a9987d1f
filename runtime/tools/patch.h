// Patches between artifacts.
#pragma once

#include "runtime/tools/common.h"

namespace moeplan::tools {

/// Writes the patch from the artifact `before` to `after`, and a line to standard error. Throws a
/// Failure.
void makePatch(const std::string &before, const std::string &after, const std::string &output);

} // namespace moeplan::tools
