// `moeplan diff`: what two artifacts have in common, and what would have to be shipped to whoever
// has the first to get to the second.
#include "runtime/tools/patch.h"

#include "runtime/support/units.h"

#include <nlohmann/json.hpp>

#include <map>

namespace moeplan::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char *footer =
    R"(Segments are compared by their checksums, nothing of them is read unless a patch is made. Exits with 1 where
--exit-code asks for that and the artifacts differ.

Example:
  moeplan diff before.moeplan after.moeplan
  moeplan diff before.moeplan after.moeplan --json --exit-code
  moeplan diff before.moeplan after.moeplan --patch after.moepatch)";

struct Options {
  std::string before, after;
  std::string patch; ///< empty: none is written
  bool json = false, exitCode = false;
};

Json describe(const std::string &path) {
  const auto artifact = openArtifact(path);
  char *text = nullptr;
  check(moeplan_artifact_inspect(artifact.get(), &text));
  const Owned<char> owner(text);
  return Json::parse(text);
}

/// What makes two segments the same; not where in the file they are, nor who reads them.
std::string identityOf(const Json &segment, const Json &artifact) {
  Json identity = Json::array();
  for (const char *field : {"name", "kind", "format", "shape", "bytes", "checksum", "synthetic"})
    identity.push_back(segment.at(field));
  if (segment.at("synthetic"))
    identity.push_back(artifact.at("synthetic_seed"));
  return identity.dump();
}

/// Segments, by their names, and the plans that read them.
struct Contents {
  std::map<std::string, const Json *> segments, plans;
  std::map<std::string, std::string> identities; ///< by name
  const Json &artifact;

  explicit Contents(const Json &artifact) : artifact(artifact) {
    for (const Json &segment : artifact.at("segments")) {
      const std::string name = segment.at("name");
      segments[name] = &segment;
      identities[name] = identityOf(segment, artifact);
    }
    for (const Json &plan : artifact.at("plans"))
      plans[plan.at("name")] = &plan;
  }
  bool has(const std::string &name, const std::string &identity) const {
    const auto found = identities.find(name);
    return found != identities.end() && found->second == identity;
  }
};

struct Amount {
  uint64_t count = 0, bytes = 0;
  void add(const Json &segment) {
    ++count;
    bytes += segment.at("stored_bytes").get<uint64_t>();
  }
  Json json() const { return {{"segments", count}, {"bytes", bytes}}; }
};

Json compareSegments(const Contents &before, const Contents &after) {
  Amount same, changed, added, removed;
  for (const auto &[name, segment] : after.segments)
    (!before.segments.contains(name)               ? added
     : before.has(name, after.identities.at(name)) ? same
                                                   : changed)
        .add(*segment);
  for (const auto &[name, segment] : before.segments)
    if (!after.segments.contains(name))
      removed.add(*segment);
  return {{"same", same.json()},
          {"changed", changed.json()},
          {"added", added.json()},
          {"removed", removed.json()},
          {"new_bytes", changed.bytes + added.bytes}};
}

/// The plans of either, in the order of the second, then what is left of the first.
Json comparePlans(const Contents &before, const Contents &after) {
  std::map<std::string, Amount> lacking; // of segments that the first artifact does not have
  for (const auto &[name, segment] : after.segments)
    if (!before.has(name, after.identities.at(name)))
      for (const Json &plan : segment->at("plans"))
        lacking[plan].add(*segment);
  Json plans = Json::array();
  for (const Json &plan : after.artifact.at("plans")) {
    const std::string name = plan.at("name");
    const auto old = before.plans.find(name);
    const bool same = old != before.plans.end() && *old->second == plan && lacking[name].count == 0;
    plans.push_back({{"plan", name},
                     {"change", old == before.plans.end() ? "added"
                                : same                    ? "none"
                                                          : "changed"},
                     {"new_bytes", lacking[name].bytes}});
  }
  for (const Json &plan : before.artifact.at("plans"))
    if (!after.plans.contains(plan.at("name")))
      plans.push_back({{"plan", plan.at("name")}, {"change", "removed"}, {"new_bytes", 0}});
  return plans;
}

/// Fields of objects that differ: name, value before, value after.
Json compareFields(const Json &before, const Json &after) {
  Json fields = Json::array();
  for (const auto &[name, value] : after.items())
    if (!before.contains(name) || before.at(name) != value)
      fields.push_back({{"field", name},
                        {"before", before.contains(name) ? before.at(name) : Json()},
                        {"after", value}});
  return fields;
}

Json compare(const Json &first, const Json &second) {
  const Contents before(first), after(second);
  // identical: whatever is in the files but for where it lies; the same inputs give the same bytes.
  return {{"identical", first == second},
          {"model", compareFields(first.at("model"), second.at("model"))},
          {"plans", comparePlans(before, after)},
          {"segments", compareSegments(before, after)},
          {"kernels_differ", first.at("kernels") != second.at("kernels")},
          {"provenance", compareFields(first.at("provenance"), second.at("provenance"))}};
}

std::string print(const Options &options, const Json &difference) {
  std::string text = fileName(options.before) + " and " + fileName(options.after) +
                     (difference.at("identical") ? " are the same\n" : ":\n");
  const auto fields = [&](const char *title, const Json &list) {
    for (const Json &field : list)
      text += "  " + std::string(title) + " " + field.at("field").get<std::string>() + ": " +
              field.at("before").dump() + ", " + field.at("after").dump() + "\n";
  };
  fields("model", difference.at("model"));
  for (const Json &plan : difference.at("plans"))
    if (plan.at("change") != "none")
      text += "  plan '" + plan.at("plan").get<std::string>() + "' is " +
              plan.at("change").get<std::string>() + ", " +
              formatBytes(plan.at("new_bytes").get<double>()) + " of it are new\n";
  const Json &segments = difference.at("segments");
  for (const char *kind : {"same", "changed", "added", "removed"})
    if (const Json &amount = segments.at(kind); amount.at("segments") > 0)
      text += "  segments " + std::string(kind) + ": " + amount.at("segments").dump() + ", " +
              formatBytes(amount.at("bytes").get<double>()) + "\n";
  fields("provenance", difference.at("provenance"));
  if (!difference.at("identical"))
    text += "new: " + formatBytes(segments.at("new_bytes").get<double>()) + "\n";
  return text;
}

void execute(const Options &options) {
  const Json difference = compare(describe(options.before), describe(options.after));
  if (options.json)
    writeJson(difference);
  else
    writeOutput(print(options, difference));
  if (!options.patch.empty())
    makePatch(options.before, options.after, options.patch);
  if (options.exitCode && !difference.at("identical"))
    throw Failure(fileName(options.before) + " and " + fileName(options.after) + " differ");
}

} // namespace

Command addDiffCommand(CLI::App &app) {
  CLI::App *command =
      app.add_subcommand("diff", "What of an artifact is not in another one already");
  auto options = std::make_shared<Options>();
  command->add_option("BEFORE", options->before, "An artifact")->required();
  command->add_option("AFTER", options->after, "Another one")->required();
  command
      ->add_option("--patch", options->patch,
                   "Write what makes AFTER of BEFORE to this file, for 'moeplan patch'")
      ->type_name("FILE");
  command->add_flag("--exit-code", options->exitCode, "Exit with 1 where they differ");
  addJsonFlag(*command, options->json);
  command->footer(footer);
  return {command, [options] { execute(*options); }};
}

} // namespace moeplan::tools
