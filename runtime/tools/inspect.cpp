// `moeplan inspect`: what an artifact holds, for people or as JSON.
#include "runtime/tools/common.h"

#include "runtime/support/units.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace moeplan::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string artifact;
  bool segments = false;
  bool json = false;
};

/// Columns that are as wide as their widest cell. The first row is the heading; columns whose
/// heading starts with '>' are aligned to the right.
class Table {
public:
  explicit Table(std::vector<std::string> heading) { rows_.push_back(std::move(heading)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string print(size_t indent) const {
    std::vector<bool> right;
    std::vector<std::vector<std::string>> rows = rows_;
    for (std::string &name : rows[0]) {
      right.push_back(name.starts_with('>'));
      name.erase(0, right.back() ? 1 : 0);
    }
    std::vector<size_t> widths(rows[0].size());
    for (const auto &row : rows)
      for (size_t i = 0; i < widths.size(); ++i)
        widths[i] = std::max(widths[i], row[i].size());
    std::string text;
    for (const auto &row : rows) {
      std::string line(indent, ' ');
      for (size_t i = 0; i < widths.size(); ++i) {
        const std::string padding(widths[i] - row[i].size(), ' ');
        line += (i > 0 ? "  " : "") + (right[i] ? padding + row[i] : row[i] + padding);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
    }
    return text;
  }

private:
  std::vector<std::vector<std::string>> rows_;
};

/// A value as it reads in a table: strings without quotes, lists separated by `separator`.
std::string plain(const Json &value, const std::string &separator = ",") {
  if (value.is_string())
    return value.get<std::string>();
  if (!value.is_array())
    return value.dump();
  std::string text;
  for (const Json &item : value)
    text += (text.empty() ? "" : separator) + plain(item);
  return text;
}

std::string bytesOf(const Json &value) { return formatBytes(value.get<double>()); }

/// Words of `text` in lines of at most 100 columns, each after `indent` spaces.
std::string wrap(const Json &words, size_t indent) {
  std::string text;
  std::string line(indent, ' ');
  for (const Json &word : words) {
    const auto item = word.get<std::string>();
    if (line.size() > indent && line.size() + 1 + item.size() > 100) {
      text += line + "\n";
      line.assign(indent, ' ');
    }
    line += (line.size() > indent ? " " : "") + item;
  }
  return line.size() > indent ? text + line + "\n" : text;
}

/// "name  value" lines of what is not null.
std::string printFields(const Json &object) {
  size_t width = 0;
  for (const auto &[name, value] : object.items())
    width = std::max(width, name.size());
  std::string text;
  for (const auto &[name, value] : object.items())
    if (!value.is_null())
      text += "  " + name + std::string(width - name.size() + 2, ' ') + plain(value, ", ") + "\n";
  return text;
}

/// "+1.2 %": a change given as a fraction.
std::string percentOf(const Json &value) {
  const double percent = 100 * value.get<double>();
  return (percent < 0 ? "-" : "+") + formatRate(std::abs(percent)) + " %";
}

/// "    prefers throughput; perplexity at most +1 %": what the tier asked for; empty: nothing.
std::string printWishes(const Json &plan) {
  std::string text = plan.at("prefer") == "none" ? "" : "prefers " + plain(plan.at("prefer"));
  const Json &limits = plan.at("limits");
  auto add = [&](const char *name, auto &&describe) {
    if (const Json &limit = limits.at(name); !limit.is_null())
      text += (text.empty() ? "" : "; ") + describe(limit);
  };
  add("max_perplexity_increase",
      [](const Json &limit) { return "perplexity at most " + percentOf(limit); });
  add("min_tokens_per_second", [](const Json &limit) {
    return "at least " + formatRate(limit.get<double>()) + " tokens/s";
  });
  add("bits_per_weight", [](const Json &limit) {
    return "at most " + formatRate(limit.get<double>()) + " bits per weight";
  });
  for (const std::string memory : {"device", "host"})
    add((memory + "_memory").c_str(), [&](const Json &limit) {
      return "at most " + bytesOf(limit) + " of " + memory + " memory";
    });
  return text.empty() ? text : "    " + text + "\n";
}

/// Where experts in host memory need a strategy.
std::string printMisses(const Json &plan) {
  if (plan.at("miss_strategy") == "none")
    return "";
  const std::string slots =
      plan.at("cache_slots") == 0 ? "" : ", " + plain(plan.at("cache_slots")) + " slots per layer";
  return "    misses: " + plain(plan.at("miss_strategy")) + slots + "\n";
}

/// What the plan made of the canary when it was compiled.
std::string printCanary(const Json &canary) {
  if (canary.is_null())
    return "";
  char divergence[32]; // small ones are noise of rounding
  std::snprintf(divergence, sizeof divergence, "%.5f", canary.at("divergence").get<double>());
  return "    canary: perplexity " + percentOf(canary.at("perplexity_increase")) + ", divergence " +
         divergence + " nats per token, logits " + plain(canary.at("logits_digest")) + "\n";
}

std::string printPrediction(const Json &prediction) {
  if (prediction.is_null())
    return "";
  std::string text =
      "    predicted: perplexity " + percentOf(prediction.at("perplexity_increase")) + ", " +
      formatRate(prediction.at("tokens_per_second").get<double>()) + " tokens/s, prefill " +
      formatRate(prediction.at("prefill_tokens_per_second").get<double>()) + " tokens/s (context " +
      plain(prediction.at("context")) + ", batch " + plain(prediction.at("batch")) + ")\n";
  Table table({"memory", ">total", ">weights", ">kv cache", ">activations", ">staging", ">driver"});
  bool empty = true;
  for (const char *memory : {"device", "host"}) {
    const Json &use = prediction.at(memory);
    if (use.is_null())
      continue;
    empty = false;
    table.add({memory, bytesOf(use.at("total")), bytesOf(use.at("weights")),
               bytesOf(use.at("kv_cache")), bytesOf(use.at("activations")),
               bytesOf(use.at("staging")), bytesOf(use.at("context"))});
  }
  return empty ? text : text + table.print(4);
}

std::string arenaOf(const Json &program) {
  const Json &pinned = program.at("pinned_arena_bytes");
  return bytesOf(program.at("arena_bytes")) +
         (pinned == 0 ? "" : " and " + bytesOf(pinned) + " pinned");
}

std::string printPlans(const Json &plans) {
  std::string text;
  for (const Json &plan : plans) {
    std::string experts;
    for (const auto &[placement, count] : plan.at("experts").items())
      experts += (experts.empty() ? "" : ", ") + plain(count) + " " + placement;
    text += "  " + plain(plan.at("name")) + ": " + bytesOf(plan.at("weight_bytes")) +
            " of weights; experts: " + experts + ", " +
            formatRate(plan.at("expert_bits_per_weight").get<double>()) + " bits per weight\n" +
            printWishes(plan) + printMisses(plan) + printPrediction(plan.at("prediction")) +
            printCanary(plan.at("canary"));
    Table table({"program", ">max tokens", ">arena", ">weights/token", ">dispatches", ">copies",
                 ">barriers"});
    for (const char *list : {"programs", "device_programs"})
      for (const Json &program : plan.at(list))
        table.add({plain(program.at("name")), plain(program.at("max_tokens")), arenaOf(program),
                   bytesOf(program.at("weight_bytes_per_token")), plain(program.at("dispatches")),
                   plain(program.at("copies")), plain(program.at("barriers"))});
    text += table.print(4);
  }
  return text;
}

std::string printLibraries(const Json &libraries) {
  std::string text;
  for (const Json &library : libraries) {
    const Json &runsHere = library.at("runs_here");
    const char *where = runsHere.is_null()     ? ", for a CUDA device"
                        : runsHere.get<bool>() ? ", runs on this machine"
                                               : ", does not run on this machine";
    text += "  " + plain(library.at("target_cpu")) + " (" + plain(library.at("triple")) +
            "), segment " + plain(library.at("segment")) + where + "\n" +
            wrap(library.at("features"), 4);
  }
  return text;
}

/// One row per kernel, with its bytes of machine code per library.
std::string printKernels(const Json &kernels, const Json &libraries) {
  std::vector<std::string> heading = {"symbol", "implementation"};
  for (const Json &library : libraries)
    heading.push_back(">" + plain(library.at("target_cpu")));
  heading.emplace_back("constants");
  Table table(std::move(heading));
  for (size_t i = 0; i < kernels.size(); ++i) {
    const Json &kernel = kernels[i];
    std::vector<std::string> row = {plain(kernel.at("symbol")), plain(kernel.at("implementation"))};
    for (const Json &library : libraries)
      row.push_back(library.at("machine") == kernel.at("machine")
                        ? bytesOf(library.at("code_bytes").at(i))
                        : "-");
    std::string constants;
    for (const auto &[name, value] : kernel.at("constants").items())
      constants += (constants.empty() ? "" : " ") + name + "=" + plain(value);
    row.push_back(constants);
    table.add(std::move(row));
  }
  return table.print(2);
}

/// Totals by kind and format.
std::string printSegmentSummary(const Json &segments) {
  struct Totals {
    uint64_t count = 0, shared = 0;
    double stored = 0, bytes = 0;
  };
  std::map<std::string, Totals> totals;
  for (const Json &segment : segments) {
    const std::string format = plain(segment.at("format"));
    Totals &group = totals[plain(segment.at("kind")) +
                           (segment.at("kind") == "weight" ? " " + format : std::string())];
    ++group.count;
    group.shared += segment.at("plans").size() > 1 ? 1 : 0;
    group.stored += segment.at("stored_bytes").get<double>();
    group.bytes += segment.at("bytes").get<double>();
  }
  Table table({"kind", ">segments", ">in file", ">in use", ">shared by plans"});
  for (const auto &[kind, group] : totals)
    table.add({kind, std::to_string(group.count), formatBytes(group.stored),
               formatBytes(group.bytes), std::to_string(group.shared)});
  return table.print(2);
}

std::string printSegments(const Json &segments) {
  Table table({"name", "kind", "format", "shape", ">offset", ">in file", ">in use", "compression",
               "checksum", "plans"});
  for (const Json &segment : segments) {
    std::string shape;
    for (const Json &extent : segment.at("shape"))
      shape += (shape.empty() ? "" : "x") + plain(extent);
    table.add({plain(segment.at("name")), plain(segment.at("kind")), plain(segment.at("format")),
               shape, plain(segment.at("offset")), bytesOf(segment.at("stored_bytes")),
               bytesOf(segment.at("bytes")), plain(segment.at("compression")),
               segment.at("synthetic").get<bool>() ? "synthetic" : plain(segment.at("checksum")),
               plain(segment.at("plans"))});
  }
  return table.print(2);
}

std::string report(const Options &options, const Json &json) {
  const Json &segments = json.at("segments");
  std::string text = fileName(options.artifact) + ": " + bytesOf(json.at("file_bytes")) +
                     ", format version " + plain(json.at("format_version"));
  if (json.at("synthetic").get<bool>())
    text += ", synthetic weights, seed " + plain(json.at("synthetic_seed"));
  text += "\n";
  text += "\nmodel\n" + printFields(json.at("model"));
  text += "\nplans\n" + printPlans(json.at("plans"));
  for (const char *part : {"canary", "switching"})
    if (!json.at(part).is_null())
      text += std::string("\n") + part + "\n" + printFields(json.at(part));
  text += "\nkernel libraries\n" + printLibraries(json.at("libraries"));
  text += "\nkernels\n" + printKernels(json.at("kernels"), json.at("libraries"));
  text += "\nsegments\n" + (options.segments
                                ? printSegments(segments)
                                : printSegmentSummary(segments) + "  (--segments lists them)\n");
  return text + "\nprovenance\n" + printFields(json.at("provenance"));
}

void inspect(const Options &options) {
  const auto artifact = openArtifact(options.artifact);
  char *description = nullptr;
  check(moeplan_artifact_inspect(artifact.get(), &description));
  const Owned<char> owner(description);
  if (options.json) {
    writeOutput(std::string(description) + "\n");
    return;
  }
  writeOutput(report(options, Json::parse(description)));
}

} // namespace

Command addInspectCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("inspect", "Show what an artifact holds");
  auto options = std::make_shared<Options>();
  addArtifactArgument(*command, options->artifact);
  command->add_flag("--segments", options->segments, "List every segment instead of totals");
  addJsonFlag(*command, options->json);
  command->footer("Example:\n  moeplan inspect tiny.moeplan --segments");
  return {command, [options] { inspect(*options); }};
}

} // namespace moeplan::tools
