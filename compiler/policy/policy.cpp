#include "compiler/policy/policy.h"

#include "compiler/support/toml_reader.h"
#include "formats.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/GlobPattern.h"
#include "llvm/Support/Path.h"

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

constexpr TomlReader::Range kPositive{0, 1e300, /*open=*/true};

class PolicyReader {
public:
  explicit PolicyReader(StringRef origin) : origin(origin), toml(origin) {}

  Expected<Policy> read(StringRef text) {
    auto parsed = toml.parse(text);
    if (!parsed)
      return parsed.takeError();
    const toml::table &root = *parsed;
    Policy policy;
    if (Error error = toml.checkKeys(root, {"targets", "tier", "profile", "context", "batch",
                                            "device_memory", "host_memory", "canary", "switch"}))
      return error;
    if (Error error = readMachine(root, policy))
      return error;
    if (Error error = readCanary(root, policy))
      return error;
    if (Error error = readSwitch(root, policy))
      return error;
    Error error = toml.forEachTable(root, "tier", [&](const toml::table &table) -> Error {
      auto tier = readTier(table);
      if (!tier)
        return tier.takeError();
      policy.tiers.push_back(std::move(*tier));
      return Error::success();
    });
    if (error)
      return error;
    if (policy.tiers.empty())
      return toml.fail(root, "a policy needs at least one [[tier]]");
    return policy;
  }

private:
  Error readMachine(const toml::table &root, Policy &policy) {
    auto targets = toml.readTable(root, "targets");
    if (!targets)
      return targets.takeError();
    if (*targets) {
      if (Error error = toml.checkKeys(**targets, {"cpu", "cuda"}))
        return error;
      if (Error error = toml.read(**targets, "cpu", policy.cpuTargets))
        return error;
      if (Error error = toml.read(**targets, "cuda", policy.cudaTargets))
        return error;
      for (auto [index, target] : enumerate(policy.cudaTargets)) {
        const StringRef name = target;
        StringRef digits = name;
        if (digits.consume_front("sm_"))
          digits.consume_back("a");
        if (digits == name || digits.size() < 2 || !all_of(digits, isDigit))
          return toml.fail(*(**targets)["cuda"][index].node(),
                           "unknown architecture '" + name + "' (as 'sm_80', 'sm_90a')");
      }
    }
    if (Error error = readPath(root, "profile", policy.profile))
      return error;
    uint64_t context = policy.context, batch = policy.batch;
    if (Error error = toml.readInteger(root, "context", 1, 1u << 30, context))
      return error;
    if (Error error = toml.readInteger(root, "batch", 1, 65536, batch))
      return error;
    policy.context = uint32_t(context);
    policy.batch = uint32_t(batch);
    if (Error error = toml.readBytes(root, "device_memory", shared.deviceMemory))
      return error;
    return toml.readBytes(root, "host_memory", shared.hostMemory);
  }

  Error readCanary(const toml::table &root, Policy &policy) {
    auto table = toml.readTable(root, "canary");
    if (!table || !*table)
      return table.takeError();
    CanaryPolicy &canary = policy.canary.emplace();
    if (Error error = toml.checkKeys(**table, {"text", "tokens", "every_tokens",
                                               "max_perplexity_increase", "max_divergence"}))
      return error;
    if (Error error = readPath(**table, "text", canary.text))
      return error;
    uint64_t tokens = canary.tokens;
    if (Error error = toml.readInteger(**table, "tokens", 1, 1u << 20, tokens))
      return error;
    canary.tokens = uint32_t(tokens);
    if (Error error =
            toml.readInteger(**table, "every_tokens", 0, uint64_t(1) << 40, canary.everyTokens))
      return error;
    if (Error error =
            toml.readFraction(**table, "max_perplexity_increase", canary.maxPerplexityIncrease))
      return error;
    return toml.readNumber(**table, "max_divergence", kPositive, canary.maxDivergence);
  }

  /// The path of a file, as it is to be opened: the policy has it from its own folder.
  Error readPath(const toml::table &table, StringRef key, std::string &out) {
    if (Error error = toml.read(table, key, out))
      return error;
    if (!out.empty() && !sys::path::is_absolute(out)) {
      SmallString<128> path(sys::path::parent_path(origin));
      sys::path::append(path, out);
      out = std::string(path);
    }
    return Error::success();
  }

  Error readSwitch(const toml::table &root, Policy &policy) {
    auto table = toml.readTable(root, "switch");
    if (!table || !*table)
      return table.takeError();
    SwitchPolicy &switching = policy.switching.emplace();
    if (Error error = toml.checkKeys(**table, {"bandwidth_share", "hysteresis", "min_seconds"}))
      return error;
    if (Error error = toml.readNumber(**table, "bandwidth_share", {0, 1, /*open=*/true},
                                      switching.bandwidthShare))
      return error;
    if (Error error = toml.readNumber(**table, "hysteresis", {0, 0.99}, switching.hysteresis))
      return error;
    return toml.readNumber(**table, "min_seconds", {}, switching.minSeconds);
  }

  Error readFormat(const toml::table &table, StringRef key, std::string &out) {
    if (Error error = toml.read(table, key, out))
      return error;
    return out.empty() ? Error::success() : resolve(*table.get(std::string_view(key)), out);
  }

  Error resolve(const toml::node &node, std::string &name) {
    auto format = resolveFormat(name);
    if (!format)
      return toml.fail(node, toString(format.takeError()));
    name = std::move(*format);
    return Error::success();
  }

  Expected<Tier> readTier(const toml::table &table) {
    if (Error error = toml.checkKeys(table, {"name", "non_expert_format", "pin", "prefer",
                                             "max_perplexity_increase", "min_tokens_per_second",
                                             "device_memory", "host_memory", "bits_per_weight",
                                             "formats", "misses", "cache_slots"}))
      return error;
    Tier tier;
    if (Error error = readName(table, tier))
      return error;
    if (Error error = readFormat(table, "non_expert_format", tier.nonExpertFormat))
      return error;
    if (Error error = readAims(table, tier))
      return error;
    if (Error error = readMisses(table, tier))
      return error;
    Error error = toml.forEachTable(table, "pin", [&](const toml::table &element) -> Error {
      auto pin = readPin(element);
      if (!pin)
        return pin.takeError();
      tier.pins.push_back(std::move(*pin));
      return Error::success();
    });
    if (error)
      return error;
    return tier;
  }

  Error readName(const toml::table &table, Tier &tier) {
    if (Error error = toml.read(table, "name", tier.name))
      return error;
    if (tier.name.empty())
      return toml.fail(table, "a tier needs a name");
    if (!all_of(tier.name, [](char c) { return isAlnum(c) || StringRef("_-.").contains(c); }))
      return toml.fail(table,
                       "tier name '" + tier.name + "' may have letters, digits, '_', '-', '.'");
    if (tier.name == "forward")
      return toml.fail(table, "tier name 'forward' is reserved");
    if (!names.insert(tier.name).second)
      return toml.fail(table, "tier '" + tier.name + "' occurs twice");
    return Error::success();
  }

  /// What happens to tokens that are routed to experts in host memory.
  Error readMisses(const toml::table &table, Tier &tier) {
    if (Error error = toml.read(table, "misses", tier.misses))
      return error;
    if (!tier.misses.empty() &&
        !is_contained({"stream", "in_place", "host_compute", "cached"}, StringRef(tier.misses)))
      return toml.fail(*table.get("misses"),
                       "unknown strategy '" + tier.misses +
                           "' (known: 'stream', 'in_place', 'host_compute', 'cached')");
    uint64_t slots = 0;
    if (Error error = toml.readInteger(table, "cache_slots", 1, 1u << 16, slots))
      return error;
    if (slots > 0 && tier.misses != "cached")
      return toml.fail(*table.get("cache_slots"), "cache_slots is for misses = \"cached\"");
    tier.cacheSlots = uint32_t(slots);
    return Error::success();
  }

  /// What the planner works towards.
  Error readAims(const toml::table &table, Tier &tier) {
    std::string prefer;
    if (Error error = toml.read(table, "prefer", prefer))
      return error;
    if (prefer == "quality")
      tier.prefer = Preference::Quality;
    else if (prefer == "throughput")
      tier.prefer = Preference::Throughput;
    else if (!prefer.empty())
      return toml.fail(*table.get("prefer"),
                       "unknown preference '" + prefer + "' (known: 'quality', 'throughput')");
    TierLimits &limits = tier.limits;
    if (Error error =
            toml.readFraction(table, "max_perplexity_increase", limits.maxPerplexityIncrease))
      return error;
    if (Error error =
            toml.readNumber(table, "min_tokens_per_second", kPositive, limits.minTokensPerSecond))
      return error;
    if (Error error =
            toml.readNumber(table, "bits_per_weight", {0, 32, /*open=*/true}, limits.bitsPerWeight))
      return error;
    limits.deviceMemory = shared.deviceMemory;
    limits.hostMemory = shared.hostMemory;
    if (Error error = toml.readBytes(table, "device_memory", limits.deviceMemory))
      return error;
    if (Error error = toml.readBytes(table, "host_memory", limits.hostMemory))
      return error;
    if (Error error = toml.read(table, "formats", tier.formats))
      return error;
    for (auto [index, name] : enumerate(tier.formats))
      if (Error error = resolve(*table["formats"][index].node(), name))
        return error;
    tier.planned = tier.prefer || limits.maxPerplexityIncrease || limits.minTokensPerSecond ||
                   limits.bitsPerWeight || limits.deviceMemory || limits.hostMemory ||
                   !tier.formats.empty();
    return Error::success();
  }

  Expected<PinRule> readPin(const toml::table &table) {
    if (Error error = toml.checkKeys(table, {"experts", "format", "residency"}))
      return error;
    PinRule pin;
    if (Error error = toml.read(table, "experts", pin.experts))
      return error;
    if (Error error = readFormat(table, "format", pin.format))
      return error;
    if (Error error = toml.read(table, "residency", pin.residency))
      return error;
    if (pin.experts.empty() || (pin.format.empty() && pin.residency.empty()))
      return toml.fail(table, "a pin needs 'experts' and at least one of 'format', 'residency'");
    if (auto glob = GlobPattern::create(pin.experts); !glob)
      return toml.fail(table, "bad pattern '" + pin.experts + "': " + toString(glob.takeError()));
    if (!pin.residency.empty() && pin.residency != "host" && pin.residency != "device")
      return toml.fail(table,
                       "unknown residency '" + pin.residency + "' (known: 'host', 'device')");
    return pin;
  }

  StringRef origin;
  TomlReader toml;
  StringSet<> names;
  TierLimits shared; ///< memories of the policy, for tiers that state none
};

} // namespace

Policy moeplan::compiler::defaultPolicy() {
  Policy policy;
  policy.tiers.emplace_back().name = "default";
  return policy;
}

Expected<std::string> moeplan::compiler::resolveFormat(StringRef name) {
  // 8 bits lose nothing with a scale per 64; below, the scale per 32 is worth its bits
  // (examples/tiny-mixtral).
  if (name == "int8")
    return "int8g64";
  if (name == "int4" || name == "int3" || name == "int2")
    return (name + "g32").str();
  if (!findFormat(std::string_view(name)))
    return createStringError("unknown format '" + name + "' (known: " + knownFormats() + ")");
  return name.str();
}

Expected<std::vector<PinRule>> moeplan::compiler::parseExpertFormats(StringRef text,
                                                                     StringRef origin) {
  std::vector<PinRule> rules;
  SmallVector<StringRef> lines;
  text.split(lines, '\n');
  for (auto [index, line] : enumerate(lines)) {
    auto fail = [&](const Twine &message) {
      return createStringError(origin + ":" + Twine(index + 1) + ": " + message);
    };
    StringRef content = line.split('#').first.trim();
    if (content.empty())
      continue;
    SmallVector<StringRef> words;
    SplitString(content, words);
    if (words.size() != 2)
      return fail("a pattern and a format expected, as 'layers.3.experts.5.w2 int8g64'");
    if (auto glob = GlobPattern::create(words[0]); !glob)
      return fail("bad pattern '" + words[0] + "': " + toString(glob.takeError()));
    auto format = resolveFormat(words[1]);
    if (!format)
      return fail(toString(format.takeError()));
    rules.push_back({words[0].str(), std::move(*format), ""});
  }
  if (rules.empty())
    return createStringError(origin + ": has no line with a pattern and a format");
  return rules;
}

Expected<Policy> moeplan::compiler::parsePolicy(StringRef text, StringRef origin) {
  return PolicyReader(origin).read(text);
}
