// Which instruction set extensions this CPU and its operating system offer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moeplan {

/// Whether `name` (LLVM's, as in "avx512vnni") is an extension that this runtime can detect. Code
/// must not be chosen on the strength of any other.
bool isKnownCpuFeature(std::string_view name);

/// Whether this machine offers it; false for an unknown name.
bool hasCpuFeature(std::string_view name);

/// The names of `required` that this machine lacks.
std::vector<std::string> missingCpuFeatures(const std::vector<std::string> &required);

} // namespace moeplan
