#include "compiler/policy/policy.h"

#include "formats.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/GlobPattern.h"

#include <sstream>
#include <toml++/toml.h>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

Error errorAt(StringRef origin, const toml::source_region &where, const Twine &message) {
  return createStringError(origin + ":" + Twine(where.begin.line) + ":" +
                           Twine(where.begin.column) + ": " + message);
}

class PolicyReader {
public:
  explicit PolicyReader(StringRef origin) : origin(origin) {}

  Expected<Policy> read(const toml::table &root) {
    Policy policy;
    if (Error error = checkKeys(root, {"targets", "tier"}))
      return error;
    if (const toml::node *targets = root.get("targets"))
      if (Error error = readTargets(*targets, policy))
        return error;
    const toml::node *tiers = root.get("tier");
    if (!tiers)
      return fail(root, "a policy needs at least one [[tier]]");
    Error error = forEach(*tiers, "tier", [&](const toml::node &node) -> Error {
      auto tier = readTier(node);
      if (!tier)
        return tier.takeError();
      policy.tiers.push_back(std::move(*tier));
      return Error::success();
    });
    if (error)
      return error;
    if (policy.tiers.empty())
      return fail(*tiers, "a policy needs at least one [[tier]]");
    return policy;
  }

private:
  Error fail(const toml::node &node, const Twine &message) {
    return errorAt(origin, node.source(), message);
  }

  Error checkKeys(const toml::table &table, ArrayRef<StringRef> known) {
    for (const auto &[key, node] : table) {
      StringRef name(key.str().data(), key.str().size());
      if (is_contained(known, name))
        continue;
      auto nearest = std::min_element(known.begin(), known.end(), [&](StringRef a, StringRef b) {
        return name.edit_distance(a) < name.edit_distance(b);
      });
      return errorAt(origin, key.source(),
                     "unknown key '" + name + "' (nearest known: '" + *nearest + "')");
    }
    return Error::success();
  }

  Error forEach(const toml::node &node, StringRef what,
                function_ref<Error(const toml::node &)> visit) {
    const toml::array *array = node.as_array();
    if (!array)
      return fail(node, "'" + what + "' must be a list");
    for (const toml::node &element : *array)
      if (Error error = visit(element))
        return error;
    return Error::success();
  }

  /// The string at `key`, or nothing where it is absent.
  Error readString(const toml::table &table, StringRef key, std::string &out) {
    const toml::node *node = table.get(std::string_view(key));
    if (!node)
      return Error::success();
    const auto value = node->value<std::string>();
    if (!node->is_string() || !value || value->empty())
      return fail(*node, "'" + key + "' must be a string that is not empty");
    out = *value;
    return Error::success();
  }

  Error readFormat(const toml::table &table, StringRef key, std::string &out) {
    if (Error error = readString(table, key, out))
      return error;
    if (out.empty())
      return Error::success();
    auto format = resolveFormat(out);
    if (!format)
      return fail(*table.get(std::string_view(key)), toString(format.takeError()));
    out = std::move(*format);
    return Error::success();
  }

  Error readTargets(const toml::node &node, Policy &policy) {
    const toml::table *table = node.as_table();
    if (!table)
      return fail(node, "'targets' must be a table");
    if (Error error = checkKeys(*table, {"cpu"}))
      return error;
    const toml::node *cpu = table->get("cpu");
    if (!cpu)
      return Error::success();
    return forEach(*cpu, "targets.cpu", [&](const toml::node &element) -> Error {
      if (!element.is_string())
        return fail(element, "'targets.cpu' must be a list of CPU names");
      policy.cpuTargets.push_back(*element.value<std::string>());
      return Error::success();
    });
  }

  Expected<Tier> readTier(const toml::node &node) {
    const toml::table *table = node.as_table();
    if (!table)
      return fail(node, "a tier must be a table");
    if (Error error = checkKeys(*table, {"name", "non_expert_format", "pin"}))
      return error;
    Tier tier;
    if (Error error = readString(*table, "name", tier.name))
      return error;
    if (tier.name.empty())
      return fail(node, "a tier needs a name");
    if (!all_of(tier.name, [](char c) { return isAlnum(c) || StringRef("_-.").contains(c); }))
      return fail(node, "tier name '" + tier.name + "' may have letters, digits, '_', '-', '.'");
    if (tier.name == "forward")
      return fail(node, "tier name 'forward' is reserved");
    if (!names.insert(tier.name).second)
      return fail(node, "tier '" + tier.name + "' occurs twice");
    if (Error error = readFormat(*table, "non_expert_format", tier.nonExpertFormat))
      return error;
    if (const toml::node *pins = table->get("pin")) {
      Error error = forEach(*pins, "pin", [&](const toml::node &element) -> Error {
        auto pin = readPin(element);
        if (!pin)
          return pin.takeError();
        tier.pins.push_back(std::move(*pin));
        return Error::success();
      });
      if (error)
        return error;
    }
    return tier;
  }

  Expected<PinRule> readPin(const toml::node &node) {
    const toml::table *table = node.as_table();
    if (!table)
      return fail(node, "a pin must be a table");
    if (Error error = checkKeys(*table, {"experts", "format", "residency"}))
      return error;
    PinRule pin;
    if (Error error = readString(*table, "experts", pin.experts))
      return error;
    if (Error error = readFormat(*table, "format", pin.format))
      return error;
    if (Error error = readString(*table, "residency", pin.residency))
      return error;
    if (pin.experts.empty() || (pin.format.empty() && pin.residency.empty()))
      return fail(node, "a pin needs 'experts' and at least one of 'format', 'residency'");
    if (auto glob = GlobPattern::create(pin.experts); !glob)
      return fail(node, "bad pattern '" + pin.experts + "': " + toString(glob.takeError()));
    if (!pin.residency.empty() && pin.residency != "host" && pin.residency != "device")
      return fail(node, "unknown residency '" + pin.residency + "' (known: 'host', 'device')");
    if (pin.residency == "device")
      return fail(node, "residency 'device' needs a target with device memory, and all targets are "
                        "CPUs");
    return pin;
  }

  StringRef origin;
  StringSet<> names;
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
  toml::table root;
  std::optional<std::pair<std::string, toml::source_region>> failure;
  try {
    root = toml::parse(std::string_view(text), std::string_view(origin));
  } catch (const toml::parse_error &error) {
    failure.emplace(std::string(error.description()), error.source());
  }
  if (failure)
    return errorAt(origin, failure->second, failure->first);
  return PolicyReader(origin).read(root);
}
