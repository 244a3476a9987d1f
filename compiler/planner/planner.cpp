#include "compiler/planner/planner.h"

#include "compiler/planner/multiple_choice.h"
#include "compiler/planner/pins.h"
#include "runtime/support/units.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Where a tier names no formats: one per width, of the group size that serves best.
constexpr moeplan_format kDefaultFormats[] = {MOEPLAN_FORMAT_BF16, MOEPLAN_FORMAT_INT8G64,
                                              MOEPLAN_FORMAT_INT4G32, MOEPLAN_FORMAT_INT3G32,
                                              MOEPLAN_FORMAT_INT2G32};
/// Hit rates and the share of weights in cache depend on the placement: rounds until they agree.
constexpr unsigned kRounds = 3;
/// Relative slack of limits for rounding.
constexpr double kTolerance = 1e-9;

/// A way to deal with experts in host memory.
struct MissSetup {
  MissStrategy strategy = MissStrategy::None;
  uint32_t cacheSlots = 0;
  const FormatInfo *widest = nullptr; ///< of host experts: their buffers are as large; null: any
};

/// Limits as totals, and what is minimised.
struct Goal {
  Amount objective = kNats;
  Amounts limits{};
};

constexpr unsigned kHost = unsigned(Residency::Host), kDevice = unsigned(Residency::Device);

class TierPlanner {
public:
  TierPlanner(const CostModel &model, const Tier &tier) : model(model), tier(tier) {}

  Expected<PlannedTier> run() {
    if (Error error = checkAnswerable())
      return error;
    auto pins = pinnedExperts(model.config(), tier);
    if (!pins)
      return pins.takeError();
    pinned = std::move(*pins);
    if (Error error = collectFormats())
      return error;
    const Goal goal = tierGoal();
    if (std::optional<PlannedTier> plan = best(goal))
      return *plan;
    return infeasible(goal);
  }

private:
  Error fail(const Twine &message) const {
    return createStringError("tier '" + tier.name + "' " + message);
  }

  Error checkAnswerable() const {
    const TierLimits &limits = tier.limits;
    if (!model.hasTimes() && (limits.minTokensPerSecond || tier.prefer == Preference::Throughput))
      return fail("asks for speed: give the machine's profile (see 'moeplan profile')");
    if (!model.hasDevice() && limits.deviceMemory)
      return fail("limits device memory, and there is no profile of a machine with a device");
    if (!model.hasDevice() &&
        any_of(tier.pins, [](const PinRule &pin) { return pin.residency == "device"; }))
      return fail("pins experts to device memory, and there is no profile of a machine with a "
                  "device");
    return Error::success();
  }

  Error collectFormats() {
    auto checkKnown = [&](const FormatInfo &format) -> Error {
      if (model.quality().knows(format))
        return Error::success();
      std::vector<StringRef> names;
      for (const FormatInfo *known : model.quality().formats())
        names.push_back(StringRef(known->name));
      return fail("uses " + StringRef(format.name) +
                  ", whose effect on quality is not known (known: " + join(names, ", ") +
                  "): calibrate with --formats");
    };
    for (const PinnedExpert &expert : pinned)
      for (const FormatInfo *format : expert.formats)
        if (format)
          if (Error error = checkKnown(*format))
            return error;
    for (const std::string &name : tier.formats) {
      const FormatInfo *format = findFormat(std::string_view(name));
      if (Error error = checkKnown(*format))
        return error;
      formats.push_back(format);
    }
    if (formats.empty())
      for (moeplan_format id : kDefaultFormats)
        if (model.quality().knows(*findFormat(uint32_t(id))))
          formats.push_back(findFormat(uint32_t(id)));
    // Widest first, which the caps of buffers go down.
    stable_sort(formats, [&](const FormatInfo *a, const FormatInfo *b) {
      return model.bytes(Linear::w1, *a) > model.bytes(Linear::w1, *b);
    });
    return Error::success();
  }

  Goal tierGoal() const {
    const TierLimits &limits = tier.limits;
    Goal goal;
    goal.limits.fill(MultipleChoiceProblem::kNone);
    goal.objective = tier.prefer == Preference::Throughput ? kSeconds : kNats;
    if (limits.maxPerplexityIncrease)
      goal.limits[kNats] = std::log1p(*limits.maxPerplexityIncrease);
    if (limits.minTokensPerSecond)
      goal.limits[kSeconds] = model.workload().batch / *limits.minTokensPerSecond;
    if (model.hasDevice())
      goal.limits[kDeviceBytes] =
          double(limits.deviceMemory.value_or(model.profile()->device->memoryBytes));
    if (limits.hostMemory || model.hasTimes())
      goal.limits[kHostBytes] =
          double(limits.hostMemory ? *limits.hostMemory : model.profile()->host.memoryBytes);
    if (limits.bitsPerWeight)
      goal.limits[kExpertBytes] =
          *limits.bitsPerWeight / 8 * double(model.expertElements()) * model.numExperts();
    return goal;
  }

  /// Those that the tier allows.
  std::vector<MissSetup> setups() const {
    std::vector<MissSetup> setups = allSetups();
    if (!tier.misses.empty())
      erase_if(setups, [&](const MissSetup &setup) {
        return setup.strategy != MissStrategy::None &&
               missStrategyName(setup.strategy) != tier.misses;
      });
    return setups;
  }

  std::vector<MissSetup> allSetups() const {
    if (!model.hasDevice())
      return {{}};
    std::vector<MissSetup> setups;
    if (none_of(pinned, [](const PinnedExpert &e) { return e.residency == Residency::Host; }))
      setups.push_back({});
    setups.push_back({MissStrategy::HostCompute});
    setups.push_back({MissStrategy::InPlace});
    for (const FormatInfo *widest : formats)
      setups.push_back({MissStrategy::Stream, 0, widest});
    const uint32_t fewest = tier.cacheSlots ? tier.cacheSlots : model.config().numExpertsPerToken;
    const uint32_t most = tier.cacheSlots ? tier.cacheSlots + 1 : model.config().numExperts;
    for (uint32_t slots = fewest; slots < most; slots *= 2)
      for (const FormatInfo *widest : formats)
        setups.push_back({MissStrategy::Cached, slots, widest});
    return setups;
  }

  /// The best placement over all ways to deal with misses.
  std::optional<PlannedTier> best(const Goal &goal) const {
    std::optional<PlannedTier> best;
    double bestObjective = MultipleChoiceProblem::kNone;
    for (const MissSetup &setup : setups()) {
      auto plan = solve(goal, setup, bestObjective);
      if (!plan)
        continue;
      const double objective = objectiveOf(plan->costs, goal);
      if (objective < bestObjective) {
        bestObjective = objective;
        best = std::move(plan);
      }
    }
    return best;
  }

  /// Of two placements that serve the aim alike, the one that is better otherwise.
  static Amounts weightsOf(Amount objective) {
    Amounts weights{};
    weights[kSeconds] = 1e-6; // a hundredth of a second is worth 1e-8 nats
    weights[kNats] = 1e-9;
    weights[objective] = 1;
    return weights;
  }

  static double objectiveOf(const PlacementCosts &costs, const Goal &goal) {
    const Amounts amounts = amountsOf(costs), weights = weightsOf(goal.objective);
    double sum = 0;
    for (unsigned k = 0; k < kAmounts; ++k)
      sum += weights[k] * amounts[k];
    return sum;
  }

  static Amounts amountsOf(const PlacementCosts &costs) {
    Amounts amounts{};
    amounts[kNats] = costs.nats;
    amounts[kSeconds] = costs.decodeSeconds;
    amounts[kDeviceBytes] = double(costs.device.total());
    amounts[kHostBytes] = double(costs.host.total());
    amounts[kExpertBytes] = costs.bitsPerWeight; // is proportional to them
    return amounts;
  }

  bool withinLimits(const PlacementCosts &costs, const Goal &goal) const {
    const Amounts amounts = amountsOf(costs);
    for (unsigned k = 0; k < kAmounts; ++k)
      if (k != kExpertBytes && amounts[k] > goal.limits[k] * (1 + kTolerance))
        return false;
    return true;
  }

  std::optional<PlannedTier> solve(const Goal &goal, const MissSetup &setup, double cutoff) const {
    std::vector<double> hits(model.numExperts(),
                             double(setup.cacheSlots) / model.config().numExperts);
    double share = firstShare();
    std::optional<PlannedTier> best;
    for (unsigned round = 0; round < kRounds; ++round) {
      MultipleChoiceProblem problem = problemOf(goal, setup, hits, share);
      problem.cutoff = cutoff;
      const MultipleChoiceSolution solution = solveMultipleChoice(problem);
      if (solution.choices.empty())
        break;
      PlannedTier plan = planOf(solution, setup);
      const double least = goal.objective == kNats ? 1e-3 : 1e-30;
      plan.gap = std::max(0.0, solution.objective - solution.lowerBound) /
                 std::max(std::abs(solution.objective), least);
      const double objective = objectiveOf(plan.costs, goal);
      if (withinLimits(plan.costs, goal) && (!best || objective < objectiveOf(best->costs, goal)))
        best = plan;
      const double nextShare = shareOf(plan.costs);
      std::vector<double> nextHits = hitsOf(plan.placement);
      const bool agrees = std::abs(nextShare - share) < 0.01 &&
                          (setup.strategy != MissStrategy::Cached || nextHits == hits);
      share = nextShare;
      hits = std::move(nextHits);
      if (agrees)
        break;
    }
    return best;
  }

  double shareOf(const PlacementCosts &costs) const {
    if (!model.hasTimes())
      return 0;
    return model.hasDevice()
               ? CostModel::cachedShare(*model.profile()->device, costs.device.weights)
               : CostModel::cachedShare(model.profile()->host, costs.host.weights);
  }

  /// As if every expert had the format in the middle.
  double firstShare() const {
    if (!model.hasTimes())
      return 0;
    const FormatInfo *middle = formats[formats.size() / 2];
    PlacementCosts costs;
    costs.host.weights = costs.device.weights =
        model.nonExpertBytes() +
        model.numExperts() * model.bytes(ExpertPlacement{{middle, middle, middle}});
    return shareOf(costs);
  }

  std::vector<double> hitsOf(const Placement &placement) const {
    std::vector<double> hits(model.numExperts(), 0);
    if (placement.miss != MissStrategy::Cached)
      return hits;
    const uint32_t perLayer = model.config().numExperts;
    for (uint32_t layer = 0; layer < model.config().numLayers; ++layer) {
      std::vector<uint32_t> hosts;
      for (uint32_t e = layer * perLayer; e < (layer + 1) * perLayer; ++e)
        if (placement.experts[e].residency == Residency::Host)
          hosts.push_back(e);
      for (auto [expert, hit] :
           zip_equal(hosts, model.hitProbabilities(hosts, placement.cacheSlots)))
        hits[expert] = hit;
    }
    return hits;
  }

  /// The formats that a linear of an expert may have, parallel to the options of its part.
  ArrayRef<const FormatInfo *> choicesOf(uint32_t expert, Linear linear) const {
    const FormatInfo *const &pin = pinned[expert].formats[size_t(linear)];
    return pin ? ArrayRef(&pin, 1) : ArrayRef(formats);
  }

  MultipleChoiceProblem problemOf(const Goal &goal, const MissSetup &setup, ArrayRef<double> hits,
                                  double share) const {
    MultipleChoiceProblem problem;
    problem.limits = goal.limits;
    problem.objective = weightsOf(goal.objective);
    const MemoryUse fixed = model.fixedUse();
    uint64_t largest = 0;
    if (setup.widest)
      largest = model.bytes(ExpertPlacement{{setup.widest, setup.widest, setup.widest}});
    problem.fixed[model.hasDevice() ? kDeviceBytes : kHostBytes] =
        double(fixed.total() + model.stagingBytes(setup.strategy, setup.cacheSlots, largest));
    if (model.hasTimes())
      problem.fixed[kSeconds] = model.fixedSeconds(share);
    for (uint32_t expert = 0; expert < model.numExperts(); ++expert)
      problem.items.push_back(itemOf(expert, setup, hits[expert], share));
    return problem;
  }

  MultipleChoiceProblem::Item itemOf(uint32_t expert, const MissSetup &setup, double hit,
                                     double share) const {
    const double usage = model.usage(expert);
    const std::optional<Residency> pin = pinned[expert].residency;
    MultipleChoiceProblem::Item item;
    item.modes[kHost].allowed =
        !model.hasDevice() || (setup.strategy != MissStrategy::None && pin != Residency::Device);
    item.modes[kDevice].allowed = model.hasDevice() && pin != Residency::Host;
    if (model.hasDevice())
      item.modes[kHost].base[kSeconds] = usage * model.missSeconds(setup.strategy, hit);
    for (Residency residency : {Residency::Host, Residency::Device}) {
      MultipleChoiceProblem::Mode &mode = item.modes[unsigned(residency)];
      if (!mode.allowed)
        continue;
      for (Linear linear : kLinears)
        for (const FormatInfo *format : choicesOf(expert, linear)) {
          MultipleChoiceProblem::Option option;
          const uint64_t bytes = model.bytes(linear, *format);
          option.amounts[kNats] = model.quality().nats(expert, linear, *format);
          option.amounts[kExpertBytes] = double(bytes);
          option.amounts[residency == Residency::Device ? kDeviceBytes : kHostBytes] =
              double(bytes);
          if (model.hasTimes())
            option.amounts[kSeconds] =
                usage * model.linearSeconds(linear, *format, residency, setup.strategy, hit, share);
          option.allowed = residency == Residency::Device || !setup.widest ||
                           bytes <= model.bytes(linear, *setup.widest);
          mode.parts[size_t(linear)].push_back(option);
        }
    }
    return item;
  }

  PlannedTier planOf(const MultipleChoiceSolution &solution, const MissSetup &setup) const {
    PlannedTier plan;
    for (auto [expert, choice] : enumerate(solution.choices)) {
      ExpertPlacement &placed = plan.placement.experts.emplace_back();
      placed.residency = Residency(choice.mode);
      for (Linear linear : kLinears)
        placed.formats[size_t(linear)] = choicesOf(expert, linear)[choice.options[size_t(linear)]];
    }
    const bool misses =
        model.hasDevice() && any_of(plan.placement.experts, [](const ExpertPlacement &expert) {
          return expert.residency == Residency::Host;
        });
    if (misses) {
      plan.placement.miss = setup.strategy;
      plan.placement.cacheSlots = setup.cacheSlots;
    }
    plan.costs = model.evaluate(plan.placement);
    return plan;
  }

  /// Says of each limit what would have to be given, the others as they are; where that does not
  /// help, what the least is without any of them.
  Error infeasible(const Goal &goal) const {
    std::vector<std::string> ways;
    auto bytes = [](double value) { return formatBytes(uint64_t(value)); };
    auto tell = [&](Amount amount, function_ref<std::string(const PlacementCosts &)> words) {
      if (goal.limits[amount] == MultipleChoiceProblem::kNone)
        return;
      Goal relaxed = goal;
      relaxed.objective = amount;
      relaxed.limits[amount] = MultipleChoiceProblem::kNone;
      if (auto plan = best(relaxed))
        ways.push_back(words(plan->costs));
    };
    tell(kDeviceBytes, [&](const PlacementCosts &costs) {
      return "needs " + bytes(double(costs.device.total())) + " of device memory, " +
             bytes(goal.limits[kDeviceBytes]) + " given";
    });
    tell(kHostBytes, [&](const PlacementCosts &costs) {
      return "needs " + bytes(double(costs.host.total())) + " of host memory, " +
             bytes(goal.limits[kHostBytes]) + " given";
    });
    tell(kSeconds, [&](const PlacementCosts &costs) {
      return formatv("decodes {0:F1} tokens/s as predicted, {1:F1} asked", costs.tokensPerSecond,
                     model.workload().batch / goal.limits[kSeconds])
          .str();
    });
    tell(kNats, [&](const PlacementCosts &costs) {
      return formatv("costs {0:F2} % of perplexity as predicted, {1:F2} % allowed",
                     100 * costs.perplexityIncrease, 100 * std::expm1(goal.limits[kNats]))
          .str();
    });
    tell(kExpertBytes, [&](const PlacementCosts &costs) {
      return formatv("takes {0:F2} bits per weight, {1:F2} allowed", costs.bitsPerWeight,
                     *tier.limits.bitsPerWeight)
          .str();
    });
    if (ways.empty())
      return fail("misses several limits at once: no single one that is lifted helps");
    return fail("cannot be met: with its other limits it " + join(ways, "; or it "));
  }

  const CostModel &model;
  const Tier &tier;
  std::vector<PinnedExpert> pinned;
  std::vector<const FormatInfo *> formats;
};

} // namespace

Expected<PlannedTier> moeplan::compiler::planTier(const CostModel &model, const Tier &tier) {
  return TierPlanner(model, tier).run();
}

/// The tier's strategy, or what costs no device memory.
static void setMisses(const CostModel &model, const Tier &tier, Placement &placement) {
  placement.miss = tier.misses.empty() ? MissStrategy::HostCompute : *findMissStrategy(tier.misses);
  if (placement.miss == MissStrategy::Cached)
    placement.cacheSlots = tier.cacheSlots ? tier.cacheSlots : model.config().numExpertsPerToken;
}

Expected<Placement> moeplan::compiler::applyPins(const CostModel &model, const Tier &tier) {
  auto pinned = pinnedExperts(model.config(), tier);
  if (!pinned)
    return pinned.takeError();
  const FormatInfo *bf16 = findFormat(uint32_t(MOEPLAN_FORMAT_BF16));
  Placement placement;
  for (const PinnedExpert &expert : *pinned) {
    ExpertPlacement &placed = placement.experts.emplace_back();
    for (Linear linear : kLinears)
      placed.formats[size_t(linear)] =
          expert.formats[size_t(linear)] ? expert.formats[size_t(linear)] : bf16;
    placed.residency = expert.residency.value_or(Residency::Host);
  }
  if (model.hasDevice() && any_of(placement.experts, [](const ExpertPlacement &expert) {
        return expert.residency == Residency::Host;
      }))
    setMisses(model, tier, placement);
  return placement;
}
