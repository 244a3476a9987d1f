#include "compiler/planner/pins.h"

#include "compiler/calibrate/statistics.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/GlobPattern.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

Expected<std::vector<PinnedExpert>> moeplan::compiler::pinnedExperts(const MixtralConfig &config,
                                                                     const Tier &tier) {
  struct Rule {
    GlobPattern pattern;
    const FormatInfo *format;
    std::optional<Residency> residency;
    bool matched = false;
  };
  std::vector<Rule> rules;
  for (const PinRule &pin : tier.pins) {
    auto pattern = GlobPattern::create(pin.experts);
    if (!pattern)
      return pattern.takeError();
    Rule rule{std::move(*pattern), findFormat(std::string_view(pin.format)), std::nullopt};
    if (!pin.residency.empty())
      rule.residency = pin.residency == "device" ? Residency::Device : Residency::Host;
    rules.push_back(std::move(rule));
  }
  std::vector<PinnedExpert> experts;
  for (uint32_t layer = 0; layer < config.numLayers; ++layer)
    for (uint32_t index = 0; index < config.numExperts; ++index) {
      PinnedExpert expert;
      const std::string name = ExpertLinear{layer, index, Linear::w1}.expertName();
      for (Rule &rule : rules) {
        const bool matchesExpert = rule.pattern.match(name);
        for (Linear linear : kLinears) {
          if (!matchesExpert && !rule.pattern.match(ExpertLinear{layer, index, linear}.name()))
            continue;
          rule.matched = true;
          if (!expert.formats[size_t(linear)])
            expert.formats[size_t(linear)] = rule.format;
        }
        if (matchesExpert && !expert.residency)
          expert.residency = rule.residency;
      }
      experts.push_back(expert);
    }
  for (auto [rule, pin] : zip_equal(rules, tier.pins))
    if (!rule.matched)
      return createStringError("tier '" + tier.name + "': pattern '" + pin.experts +
                               "' matches no expert");
  return experts;
}
