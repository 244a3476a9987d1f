#include "runtime/tools/control.h"

#include "runtime/support/units.h"

#include <cstdio>

namespace moeplan::tools {
namespace {

using Json = nlohmann::ordered_json;

/// What an event of a kind has to say besides its plans.
struct Fields {
  bool bytes = false, seconds = false, position = false, distances = false;
};

Fields fieldsOf(moeplan_event_kind kind) {
  switch (kind) {
  case MOEPLAN_EVENT_STAGING:
  case MOEPLAN_EVENT_BUDGET:
    return {.bytes = true};
  case MOEPLAN_EVENT_FLIPPED:
    return {.bytes = true, .seconds = true, .position = true};
  case MOEPLAN_EVENT_EVICTED:
  case MOEPLAN_EVENT_RELEASED:
  case MOEPLAN_EVENT_COMPLETED:
    return {.bytes = true, .seconds = true};
  case MOEPLAN_EVENT_CANARY:
  case MOEPLAN_EVENT_QUARANTINED:
    return {.seconds = true, .distances = true};
  default:
    return {};
  }
}

} // namespace

Json eventJson(const moeplan_event &event) {
  Json json = {{"event", moeplan_event_name(event.kind)}};
  if (event.from_plan)
    json["from"] = event.from_plan;
  if (event.plan)
    json["plan"] = event.plan;
  const Fields fields = fieldsOf(event.kind);
  if (fields.bytes)
    json["bytes"] = event.bytes;
  if (fields.seconds)
    json["seconds"] = event.seconds;
  if (fields.position)
    json["position"] = event.position;
  if (fields.distances) {
    json["perplexity_increase"] = event.perplexity_increase;
    json["divergence"] = event.divergence;
  }
  if (event.reason)
    json["reason"] = event.reason;
  return json;
}

std::string eventLine(const moeplan_event &event) {
  const Fields fields = fieldsOf(event.kind);
  std::string line = std::string("[") + moeplan_event_name(event.kind) + "]";
  if (event.from_plan)
    line += std::string(" ") + event.from_plan + " ->";
  if (event.plan)
    line += std::string(" ") + event.plan;
  if (fields.bytes)
    line += ", " + formatBytes(static_cast<double>(event.bytes));
  if (fields.seconds)
    line += ", " + formatRate(event.seconds) + " s";
  if (fields.position)
    line += ", at position " + std::to_string(event.position);
  if (fields.distances) {
    char text[96];
    std::snprintf(text, sizeof text, ", perplexity %+.2f %%, divergence %.4f nats per token",
                  100 * event.perplexity_increase, event.divergence);
    line += text;
  }
  if (event.reason)
    line += std::string(": ") + event.reason;
  return line;
}

Control::Control(const moeplan_artifact &artifact, const ControlOptions &options,
                 EventHandler onEvent)
    : onEvent_(std::make_unique<EventHandler>(std::move(onEvent))) {
  moeplan_runtime_options runtimeOptions;
  moeplan_runtime_options_init(&runtimeOptions);
  runtimeOptions.device = options.device.c_str();
  runtimeOptions.bandwidth_share = options.bandwidthShare.value_or(-1);
  runtimeOptions.user_data = onEvent_.get();
  if (*onEvent_)
    runtimeOptions.on_event = [](void *handler, const moeplan_event *event) {
      (*static_cast<EventHandler *>(handler))(*event);
    };
  moeplan_runtime *runtime = nullptr;
  check(moeplan_runtime_create(&artifact, &runtimeOptions, &runtime));
  runtime_.reset(runtime);
  setCanary(artifact, options);
}

void Control::setCanary(const moeplan_artifact &artifact, const ControlOptions &options) {
  if (options.canary.empty())
    return;
  // Longer texts would make every check as long: what a policy's canary has by default.
  constexpr size_t mostTokens = 257;
  const moeplan_model_info model = moeplan_artifact_model_info(&artifact);
  std::vector<int32_t> tokens =
      tokenize(artifact, readTextFile(options.canary), model.bos_token_id >= 0);
  tokens.resize(std::min({tokens.size(), mostTokens, size_t{model.max_context}}));
  moeplan_canary_options canary;
  moeplan_canary_options_init(&canary);
  canary.max_perplexity_increase = options.maxPerplexityIncrease.value_or(-1);
  canary.max_divergence = options.maxDivergence.value_or(-1);
  canary.every_tokens = options.canaryEvery.value_or(0);
  check(moeplan_runtime_set_canary(runtime_.get(), tokens.data(), tokens.size(), &canary));
}

void addDeviceOption(CLI::App &command, std::string &device) {
  command
      .add_option(
          "--device", device,
          "cpu; cuda:0,device_memory=24GiB for an NVIDIA GPU; or "
          "emu:device_memory=24GiB,copy=25GB/s,latency=10us for CPU kernels behind a memory of "
          "their own")
      ->capture_default_str()
      ->type_name("DEVICE");
}

void addBandwidthShareOption(CLI::App &command, std::optional<double> &share) {
  command
      .add_option("--bandwidth-share", share,
                  "Of the time that staging may use, up to 1 (default: the policy's, or 0.5)")
      ->check(positive())
      ->type_name("X");
}

void addCanaryOptions(CLI::App &command, ControlOptions &options) {
  auto *canary =
      command
          .add_option("--canary", options.canary,
                      "Text to check plans on instead of the artifact's, against its best plan")
          ->type_name("FILE");
  command
      .add_option("--canary-every", options.canaryEvery,
                  "Check every N tokens, and when idle (default: after switches only)")
      ->needs(canary)
      ->type_name("N");
  command
      .add_option("--max-perplexity-increase", options.maxPerplexityIncrease,
                  "Over the best plan, as a fraction: a plan further off is left")
      ->needs(canary)
      ->type_name("X");
  command
      .add_option("--max-divergence", options.maxDivergence,
                  "Kullback-Leibler, nats per token from the best plan: likewise")
      ->needs(canary)
      ->check(notNegative())
      ->type_name("X");
}

} // namespace moeplan::tools
