// Which linears of an expert each kernel reads through an expert table: what the compiler proves
// and the runtime checks of a plan's formats rests on it.
#pragma once

#include <cstdint>
#include <string_view>

namespace moeplan {

/// The linears of an expert, as in moeplan_expert; the numbers are those in files.
enum class Linear : uint16_t { w1 = 0, w3 = 1, w2 = 2 };
inline constexpr Linear kLinears[] = {Linear::w1, Linear::w3, Linear::w2};
inline constexpr const char *kLinearNames[] = {"w1", "w3", "w2"}; ///< by Linear

/// A micro-kernel that has an expert table among its operands; where it reads weights, `formats` is
/// its constant for the set of formats it was made for.
struct ExpertKernel {
  std::string_view implementation;
  bool linears[3]; ///< by Linear

  constexpr bool reads(Linear linear) const { return linears[static_cast<int>(linear)]; }
  /// Else it only looks where experts are.
  constexpr bool readsAny() const { return linears[0] || linears[1] || linears[2]; }
};

inline constexpr ExpertKernel kExpertKernels[] = {
    {"experts_gate_up", {true, true, false}},    {"experts_gate_up_prompt", {true, true, false}},
    {"experts_down", {false, false, true}},      {"experts_down_prompt", {false, false, true}},
    {"fetch_experts", {false, false, false}},    {"experts_to_host", {false, false, false}},
    {"experts_from_host", {false, false, false}}};

inline constexpr const ExpertKernel *findExpertKernel(std::string_view implementation) {
  for (const ExpertKernel &kernel : kExpertKernels)
    if (kernel.implementation == implementation)
      return &kernel;
  return nullptr;
}

} // namespace moeplan
