// Which formats a kernel reads: it is what its constants say, fixed when it was compiled.
#pragma once

#include "expert_kernels.h"
#include "moeplan_generated.h"
#include "runtime/support/status.h"

#include <cstdint>
#include <optional>
#include <string_view>

namespace moeplan {

/// What a kernel reads through an expert table.
struct ExpertAccess {
  const ExpertKernel *kernel; ///< never null
  uint64_t formats;           ///< bit f: format f

  bool reads(Linear linear) const { return kernel->reads(linear); }
  bool has(fb::Format format) const { return formats >> static_cast<unsigned>(format) & 1; }
};

/// The value of a kernel's constant `name`; nothing where it has none that is an integer.
std::optional<int64_t> integerConstant(const fb::Kernel &kernel, std::string_view name);

/// Nothing where `kernel` is none of the kernels that read expert tables, or states no formats.
std::optional<ExpertAccess> expertAccessOf(const fb::Kernel &kernel);

/// MOEPLAN_UNSUPPORTED, naming plan, expert, linear and format, where a dispatch of `plan` would
/// read a weight in a format that its kernel was not compiled for: it would compute nonsense.
Status checkKernelFormats(const fb::Artifact &artifact, const fb::Plan &plan);

/// Whether every program of `plan` could read `linear` of the experts of `layer` in `format`.
bool hasKernelsFor(const fb::Artifact &artifact, const fb::Plan &plan, uint32_t layer,
                   Linear linear, fb::Format format);

} // namespace moeplan
