// `moeplan fit`: which plans of an artifact this machine has room for, and how fast they may be.
#include "runtime/tools/common.h"

#include "runtime/device/affinity.h"
#include "runtime/support/units.h"
#include "runtime/tools/control.h"
#include "runtime/tools/rates.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace moeplan::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char *footer =
    R"(Nothing of the weights is loaded. The speed is a bound: the weights of one token at the
rate at which this machine reads memory, those of experts on the host at that of the link, or
of the CPU that computes them beside the GPU. Exits with 1 where no plan fits.

Example:
  moeplan fit model.moeplan --context 8192
  moeplan fit model.moeplan --device cuda:0 --json)";

struct Options {
  std::string artifact, device = "cpu";
  uint32_t contextLength = 0;
  bool json = false;
};

/// Bytes per second of the memory that the device computes from, of the way from the host to it
/// (0: the same memory), and of the CPU in the host's memory.
struct Rates {
  double memory = 0, link = 0, host = 0;
  bool isGpu = false;
};

bool isComputedOnHost(const Json &plan) { return plan["miss_strategy"] == "host_compute"; }

Rates measure(const Options &options, moeplan_runtime &runtime, const Json &plans) {
  const RateMeter meter(options.device, runtime, availablePhysicalCores());
  if (!meter.isGpu()) {
    const double memory = meter.readBandwidth();
    return {memory, moeplan_runtime_memory_counters(&runtime).copy_bandwidth, memory};
  }
  const bool computes = std::any_of(plans.begin(), plans.end(), isComputedOnHost);
  return {meter.readBandwidth(), meter.linkBandwidth(), computes ? meter.hostReadBandwidth() : 0,
          true};
}

/// That the weights of a token take at least. What the CPU computes for a GPU, it computes beside
/// it.
double secondsOf(const Json &plan, const Rates &rates) {
  const double own = plan["bytes_per_token"].get<double>() / rates.memory;
  const double away = plan["host_bytes_per_token"];
  if (away == 0)
    return own;
  if (isComputedOnHost(plan))
    return rates.isGpu ? std::max(own, away / rates.host) : own + away / rates.host;
  return own + away / (rates.link == 0 ? rates.memory : rates.link);
}

/// "-" where the plan does not run.
std::string speed(const Json &plan, const char *key) {
  return plan[key].is_null() ? "-" : formatRate(plan[key].get<double>());
}

std::string table(const Options &options, const Json &fit, const Rates &rates) {
  std::string text = fileName(options.artifact) + " on " + options.device + ": " +
                     formatBytes(fit["budget"].get<double>()) + " of memory, read at " +
                     formatBytes(rates.memory) + "/s";
  if (rates.link > 0)
    text += "; the host has " + formatBytes(fit["host_available"].get<double>()) + ", read at " +
            formatBytes(rates.link) + "/s";
  text +=
      "\n\n| plan | fits | memory | host | experts on the host | tokens/s at most | predicted |\n"
      "|---|---|---:|---:|---:|---:|---:|\n";
  for (const Json &plan : fit["plans"]) {
    text += "| " + plan["plan"].get<std::string>() + " | ";
    if (!plan["cannot_run"].is_null()) {
      text += plan["cannot_run"].get<std::string>() + " | | | | | |\n";
      continue;
    }
    const uint64_t there = plan["experts_on_host"],
                   all = there + plan["experts_on_device"].get<uint64_t>();
    text += std::string(plan["fits"] ? "yes" : "no") + " | " +
            formatBytes(plan["bytes"].get<double>()) + " | " +
            formatBytes(plan["host_bytes"].get<double>()) + " | " + std::to_string(there) + " of " +
            std::to_string(all) + " | " + speed(plan, "tokens_per_second_at_most") + " | " +
            speed(plan, "predicted_tokens_per_second") + " |\n";
  }
  return text;
}

void execute(const Options &options) {
  const auto artifact = openArtifact(options.artifact);
  Control control(*artifact, {.device = options.device}, [](const moeplan_event &) {});
  moeplan_session_options session;
  moeplan_session_options_init(&session);
  session.context_length = options.contextLength;
  char *described = nullptr;
  check(moeplan_runtime_fit(&control.runtime(), &session, &described));
  const Owned<char> owner(described);
  Json fit = Json::parse(described);
  const Rates rates = measure(options, control.runtime(), fit["plans"]);
  fit["bytes_per_second"] = rates.memory;
  fit["host_bytes_per_second"] = rates.link;
  fit["host_read_bytes_per_second"] = rates.host > 0 ? Json(rates.host) : Json();
  bool any = false;
  for (Json &plan : fit["plans"]) {
    any = any || plan["fits"].get<bool>();
    plan["tokens_per_second_at_most"] = nullptr;
    if (const double seconds = secondsOf(plan, rates); seconds > 0)
      plan["tokens_per_second_at_most"] = 1 / seconds;
  }
  if (options.json)
    writeJson(fit);
  else
    writeOutput(table(options, fit, rates));
  if (!any)
    throw Failure("no plan of " + fileName(options.artifact) + " fits");
}

} // namespace

Command addFitCommand(CLI::App &app) {
  CLI::App *command =
      app.add_subcommand("fit", "Which plans this machine has room for, before any is loaded");
  auto options = std::make_shared<Options>();
  addArtifactArgument(*command, options->artifact);
  addDeviceOption(*command, options->device);
  command
      ->add_option("--context", options->contextLength,
                   "Positions of the KV cache (default: the model's, at most 4096)")
      ->check(positive())
      ->type_name("N");
  addJsonFlag(*command, options->json);
  command->footer(footer);
  return {command, [options] { execute(*options); }};
}

} // namespace moeplan::tools
