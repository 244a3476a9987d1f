#include "runtime/api/handles.h"
#include "runtime/device/cuda/cuda_device.h"

#include <iterator>

using namespace moeplan;

namespace {

const char *nameOrNull(const fb::Plan *plan) { return plan ? plan->name()->c_str() : nullptr; }

EventListener listenerOf(const moeplan_runtime_options &options) {
  if (!options.on_event)
    return {};
  return [call = options.on_event, data = options.user_data](const Event &event) {
    const moeplan_event told{sizeof(moeplan_event),
                             event.kind,
                             static_cast<const moeplan_session *>(event.owner),
                             nameOrNull(event.from),
                             nameOrNull(event.plan),
                             event.bytes,
                             event.seconds,
                             event.position,
                             event.perplexityIncrease,
                             event.divergence,
                             event.reason.empty() ? nullptr : event.reason.c_str()};
    call(data, &told);
  };
}

/// Options that mean "as the policy says" where they are negative.
std::optional<double> given(double value) {
  return value < 0 ? std::nullopt : std::optional(value);
}

/// `measure(CudaDevice &)` gives bytes per second.
template <typename Measure>
moeplan_status *measureOnGpu(moeplan_runtime *runtime, double *bytesPerSecond, Measure &&measure) {
  return guard([&]() -> Status {
    if (!runtime || !bytesPerSecond)
      return nullArgument(runtime ? "bytes_per_second" : "runtime");
    CudaDevice *device = runtime->runtime->backend().device().cuda();
    if (!device)
      return unsupported("the memory of this device is the host's");
    MOEPLAN_ASSIGN(*bytesPerSecond, measure(*device));
    return {};
  });
}

} // namespace

extern "C" {

const char *moeplan_event_name(moeplan_event_kind kind) {
  static constexpr const char *names[] = {"staging",   "evicted",     "flipped",    "released",
                                          "completed", "failed",      "superseded", "budget",
                                          "canary",    "quarantined", "verified",   "rolled_back"};
  static_assert(std::size(names) == MOEPLAN_EVENT_ROLLED_BACK + 1);
  const auto index = static_cast<size_t>(kind);
  return index < std::size(names) ? names[index] : "unknown";
}

void moeplan_runtime_options_init(moeplan_runtime_options *options) {
  if (options)
    *options = {sizeof(moeplan_runtime_options), nullptr, nullptr, nullptr, -1, -1, -1};
}

moeplan_status *moeplan_runtime_create(const moeplan_artifact *artifact,
                                       const moeplan_runtime_options *options,
                                       moeplan_runtime **out) {
  return guard([&]() -> Status {
    if (!artifact || !out)
      return nullArgument(artifact ? "out" : "artifact");
    moeplan_runtime_options all;
    moeplan_runtime_options_init(&all);
    MOEPLAN_TRY(readOptions(options, all));
    MOEPLAN_ASSIGN(
        std::shared_ptr<Runtime> runtime,
        Runtime::create(*artifact->artifact, {all.device ? all.device : "cpu", listenerOf(all),
                                              given(all.bandwidth_share), given(all.hysteresis),
                                              given(all.min_seconds)}));
    *out = new moeplan_runtime{std::move(runtime)};
    return {};
  });
}

void moeplan_runtime_free(moeplan_runtime *runtime) { delete runtime; }

moeplan_status *moeplan_runtime_set_device_budget(moeplan_runtime *runtime, uint64_t bytes) {
  return guard([&]() -> Status {
    return runtime ? runtime->runtime->setDeviceBudget(bytes) : nullArgument("runtime");
  });
}

void moeplan_canary_options_init(moeplan_canary_options *options) {
  if (options)
    *options = {sizeof(moeplan_canary_options), -1, -1, 0};
}

moeplan_status *moeplan_runtime_set_canary(moeplan_runtime *runtime, const int32_t *tokens,
                                           size_t count, const moeplan_canary_options *options) {
  return guard([&]() -> Status {
    if (!runtime || (!tokens && count > 0))
      return nullArgument(runtime ? "tokens" : "runtime");
    moeplan_canary_options all;
    moeplan_canary_options_init(&all);
    MOEPLAN_TRY(readOptions(options, all));
    return runtime->runtime->setCanary(
        {tokens, count},
        {given(all.max_perplexity_increase), given(all.max_divergence), all.every_tokens});
  });
}

moeplan_status *moeplan_runtime_verify_plan(moeplan_runtime *runtime, const char *plan) {
  return guard([&]() -> Status {
    if (!runtime || !plan)
      return nullArgument(runtime ? "plan" : "runtime");
    return runtime->runtime->verifyPlan(plan);
  });
}

moeplan_status *moeplan_runtime_measure_device_bandwidth(moeplan_runtime *runtime, uint64_t bytes,
                                                         uint32_t repetitions,
                                                         double *bytes_per_second) {
  return measureOnGpu(runtime, bytes_per_second, [&](CudaDevice &device) {
    return device.measureCopyBandwidth(bytes, repetitions);
  });
}

moeplan_status *moeplan_runtime_measure_link_bandwidth(moeplan_runtime *runtime, uint64_t bytes,
                                                       uint32_t repetitions,
                                                       double *bytes_per_second) {
  return measureOnGpu(runtime, bytes_per_second, [&](CudaDevice &device) {
    return device.measureLinkBandwidth(bytes, repetitions);
  });
}

moeplan_memory_counters moeplan_runtime_memory_counters(const moeplan_runtime *runtime) {
  if (!runtime)
    return {};
  Backend &backend = runtime->runtime->backend();
  const ResidencyCounters &counters = backend.residency().counters();
  return {backend.device().budget(),
          backend.device().used(),
          counters.stagedBytes,
          counters.copiedBytes,
          counters.releasedBytes,
          counters.evictedBytes,
          counters.hits,
          counters.misses,
          counters.missBytes,
          backend.device().copyBandwidth()};
}

} // extern "C"
