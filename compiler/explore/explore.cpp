#include "compiler/explore/explore.h"

#include "compiler/driver/planning.h"
#include "compiler/explore/measure.h"
#include "compiler/pack/atomic_file.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <set>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

class Explorer {
public:
  explicit Explorer(const ExploreOptions &options) : options(options) {}

  Expected<ExploreReport> run() {
    if (Error error = openInputs())
      return error;
    if (Error error = addTiers())
      return error;
    if (Error error = sweep())
      return error;
    if (frontier().points.empty())
      return createStringError("nothing is feasible: " + report.infeasible.front());
    markFrontier(frontier());
    if (options.measure)
      if (Error error = measureFrontier(options, frontier()))
        return error;
    for (auto [name, text] : {std::pair("frontier.csv", frontierCsv(frontier())),
                              std::pair("frontier.json", frontierJson(frontier())),
                              std::pair("frontier.html", frontierHtml(frontier()))})
      if (Error error = write(name, text))
        return error;
    return std::move(report);
  }

private:
  Frontier &frontier() { return report.frontier; }

  Error openInputs() {
    auto opened = options.config.empty() ? Checkpoint::open(options.checkpoint)
                                         : Checkpoint::synthetic(options.config, 0);
    if (!opened)
      return opened.takeError();
    checkpoint = std::move(*opened);
    policy = defaultPolicy();
    policy.tiers.front().planned = true;
    if (!options.policy.empty()) {
      auto text = MemoryBuffer::getFile(options.policy);
      if (!text)
        return createStringError(options.policy + ": " + text.getError().message());
      auto parsed = parsePolicy((*text)->getBuffer(), options.policy);
      if (!parsed)
        return parsed.takeError();
      policy = std::move(*parsed);
    }
    if (!options.statistics.empty()) {
      auto read = Statistics::open(options.statistics, "");
      if (!read)
        return read.takeError();
      statistics = std::move(*read);
    }
    auto made =
        Planning::create(*checkpoint, policy, options.profile, statistics.get(), options.kvFormat,
                         /*forCuda=*/!policy.cudaTargets.empty());
    if (!made)
      return made.takeError();
    planning.emplace(std::move(*made));
    if (std::error_code error = sys::fs::create_directories(options.output))
      return createStringError(options.output + ": " + error.message());

    const StringRef path(options.config.empty() ? options.checkpoint : options.config);
    frontier().model = sys::path::stem(path.rtrim('/')).str();
    const std::optional<Profile> &profile = planning->profile();
    frontier().profile = profile ? profile->name : "";
    frontier().hasDevice = profile && profile->device;
    frontier().qualitySource = planning->quality().source();
    frontier().numLayers = checkpoint->config().numLayers;
    frontier().numExperts = checkpoint->config().numExperts;
    frontier().numExpertsPerToken = checkpoint->config().numExpertsPerToken;
    frontier().context = policy.context;
    frontier().batch = policy.batch;
    return Error::success();
  }

  void addPoint(std::string name, PlannedTier plan, bool isTier, bool isPaper, uint64_t budget) {
    FrontierPoint point;
    point.name = std::move(name);
    point.isTier = isTier;
    point.isPaper = isPaper;
    point.budgetBytes = budget;
    point.placement = std::move(plan.placement);
    point.costs = plan.costs;
    point.gap = plan.gap;
    frontier().points.push_back(std::move(point));
  }

  Error addTiers() {
    if (options.policy.empty())
      return Error::success();
    for (const Tier &tier : policy.tiers) {
      auto plan = planning->plan(tier);
      if (!plan) {
        report.infeasible.push_back(toString(plan.takeError()));
        continue;
      }
      const std::optional<uint64_t> budget =
          frontier().hasDevice ? tier.limits.deviceMemory : tier.limits.hostMemory;
      addPoint(tier.name, std::move(*plan), /*isTier=*/true, /*isPaper=*/false, budget.value_or(0));
    }
    return Error::success();
  }

  /// What the sweep plans: the formats of all tiers, none of their limits and pins.
  Tier sweepTier() const {
    Tier tier;
    tier.planned = true;
    tier.prefer = Preference::Quality;
    tier.nonExpertFormat = policy.tiers.front().nonExpertFormat;
    std::set<std::string> formats;
    for (const Tier &other : policy.tiers) {
      if (other.formats.empty()) // the planner's defaults, which it knows best
        return tier;
      formats.insert(other.formats.begin(), other.formats.end());
    }
    tier.formats.assign(formats.begin(), formats.end());
    return tier;
  }

  /// From the least that a placement takes to what 16 bits take, within the machine's memory.
  std::vector<uint64_t> budgets(const CostModel &model, const Tier &tier) const {
    if (!options.budgets.empty())
      return options.budgets;
    uint64_t least = UINT64_MAX;
    auto uniform = [&](const FormatInfo &format) {
      return model.fixedUse().total() +
             model.numExperts() * model.bytes(ExpertPlacement{{&format, &format, &format}});
    };
    for (const FormatInfo *format : model.quality().formats())
      if (tier.formats.empty() ? StringRef(format->name).ends_with("g32") || !format->isPacked()
                               : is_contained(tier.formats, format->name))
        least = std::min(least, uniform(*format));
    uint64_t most = uniform(*findFormat(uint32_t(MOEPLAN_FORMAT_BF16)));
    if (model.hasTimes())
      most = std::min(most, model.hasDevice() ? model.profile()->device->memoryBytes
                                              : model.profile()->host.memoryBytes);
    least = std::min(least, most);
    std::vector<uint64_t> budgets;
    for (unsigned i = 0; i < options.numBudgets; ++i)
      budgets.push_back(least + (most - least) * i / std::max(1u, options.numBudgets - 1));
    return budgets;
  }

  Error sweep() {
    Tier tier = sweepTier();
    auto model = planning->costModel(tier);
    if (!model)
      return model.takeError();
    PaperOptions paper;
    paper.seed = options.seed;
    for (const FormatInfo *format : (*model)->quality().formats()) // the last: most per scale
      if (format->bits == 4)
        paper.format4 = format;
    const std::vector<uint64_t> all = budgets(**model, tier);
    std::set<std::string> names;
    for (auto [index, budget] : enumerate(all)) {
      if (options.progress)
        options.progress("plan", index, all.size(), "budgets");
      // As many digits as keep the names apart.
      std::string size = formatv("{0:F2}GB", double(budget) / 1e9).str();
      if (!names.insert(size).second || budget < 100000000)
        size = formatv("{0:F3}MB", double(budget) / 1e6).str();
      if (frontier().hasDevice)
        tier.limits.deviceMemory = budget;
      else
        tier.limits.hostMemory = budget;
      tier.limits.minTokensPerSecond.reset();
      if (paper.format4) {
        paper.deviceMemory = budget;
        PlannedTier plan = planAsPaper(**model, paper);
        const uint64_t taken =
            frontier().hasDevice ? plan.costs.device.total() : plan.costs.host.total();
        if (taken <= budget) {
          // Ours has no more than what the paper's plan took, and is no slower.
          (frontier().hasDevice ? tier.limits.deviceMemory : tier.limits.hostMemory) = taken;
          if ((*model)->hasTimes())
            tier.limits.minTokensPerSecond = plan.costs.tokensPerSecond;
          addPoint("paper-" + size, std::move(plan), /*isTier=*/false, /*isPaper=*/true, budget);
        }
      }
      tier.name = "ours-" + size;
      auto ours = planTier(**model, tier);
      if (ours)
        addPoint(tier.name, std::move(*ours), /*isTier=*/false, /*isPaper=*/false, budget);
      else
        report.infeasible.push_back(toString(ours.takeError()));
    }
    if (options.progress)
      options.progress("plan", all.size(), all.size(), "budgets");
    return Error::success();
  }

  Error write(StringRef name, StringRef text) const {
    SmallString<128> path(options.output);
    sys::path::append(path, name);
    return writeTextFile(path, text);
  }

  const ExploreOptions &options;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Statistics> statistics;
  Policy policy;
  std::optional<Planning> planning;
  ExploreReport report;
};

} // namespace

Expected<ExploreReport> moeplan::compiler::explore(const ExploreOptions &options) {
  return Explorer(options).run();
}
