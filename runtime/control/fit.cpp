#include "runtime/control/fit.h"

#include "runtime/artifact/programs.h"
#include "runtime/control/switcher.h"
#include "runtime/device/memory.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <span>

namespace moeplan {

namespace {

std::string reasonAgainst(Device &device, const fb::Plan &plan) {
  if (usesDevice(plan) && !device.hasOwnMemory())
    return "keeps experts in device memory, which this device has not";
  const auto *programs = programsOf(plan, device.cuda());
  return programs && programs->size() > 0 ? "" : "has no programs for cuda devices";
}

/// The share of routings to a layer's `hosts` experts on the host that find theirs in a cache slot,
/// where all are as likely.
double hitShare(const fb::Plan &plan, uint32_t hosts) {
  const bool caches = plan.miss_strategy() == fb::MissStrategy::cached;
  return caches && hosts > 0 ? std::min(1.0, double(plan.cache_slots()) / hosts) : 0;
}

/// Adds what a token reads of the experts of one layer, from either memory. Returns the sum.
double addLayer(PlanFit &fit, const Residency &residency,
                std::span<const std::array<Held, 3>> layer, double used) {
  uint32_t hosts = 0;
  double device = 0, host = 0;
  for (const auto &linears : layer) {
    const bool there = linears[0].memory == fb::Residency::host;
    hosts += there;
    for (const Held &held : linears)
      (residency.counts(held.memory) ? device : host) +=
          used * double(residency.bytesOf(held.segment));
  }
  fit.expertsOnHost += hosts;
  fit.expertsOnDevice += uint32_t(layer.size()) - hosts;
  const double hits = host * hitShare(*fit.plan, hosts);
  fit.bytesPerToken += device + hits;
  fit.hostBytesPerToken += host - hits;
  return device + host;
}

PlanFit fitOf(Backend &backend, uint64_t sessionBytes, const fb::Plan &plan,
              const MachineFit &machine) {
  const Residency &residency = backend.residency();
  const fb::Model &model = backend.artifact().model();
  PlanFit fit{&plan, reasonAgainst(backend.device(), plan)};
  if (!fit.cannotRun.empty())
    return fit;
  const PlanWeights weights = residency.weightsOf(plan);
  fit.bytes = countedWeightBytes(residency, plan) + workingBytes(residency, plan);
  // Where it overflows nothing has room for it.
  if (__builtin_add_overflow(fit.bytes, sessionBytes, &fit.bytes))
    fit.bytes = Device::kNoBudget;
  for (const Held &held : weights.all())
    if (!residency.counts(held.memory))
      fit.hostBytes += residency.bytesOf(held.segment);
  const double used = double(model.num_experts_per_tok()) / model.num_experts();
  double expertBytes = 0;
  for (uint32_t layer = 0; layer < model.num_layers(); ++layer)
    expertBytes += addLayer(fit, residency,
                            std::span(weights.experts)
                                .subspan(size_t(layer) * model.num_experts(), model.num_experts()),
                            used);
  // What is not experts is where the device computes.
  const auto *programs = programsOf(plan, backend.device().cuda());
  fit.bytesPerToken += double(programs->Get(0)->weight_bytes_per_token()) - expertBytes;
  fit.fits = fit.bytes <= machine.budget && fit.hostBytes <= machine.hostAvailable;
  return fit;
}

} // namespace

Result<MachineFit> fitOf(Backend &backend, SessionOptions options) {
  options.plan = nullptr;
  MOEPLAN_TRY(Session::check(backend.artifact(), options, /*ownMemory=*/true));
  const uint64_t sessionBytes = Session::fixedBytes(backend, options);
  MachineFit machine;
  machine.hostAvailable = availableMemoryBytes().value_or(Device::kNoBudget);
  machine.budget = backend.device().budget();
  if (machine.budget == Device::kNoBudget)
    machine.budget = machine.hostAvailable;
  for (const fb::Plan *plan : *backend.artifact().metadata().plans())
    machine.plans.push_back(fitOf(backend, sessionBytes, *plan, machine));
  return machine;
}

std::string describe(const MachineFit &fit) {
  nlohmann::ordered_json plans = nlohmann::ordered_json::array();
  for (const PlanFit &plan : fit.plans) {
    const bool runs = plan.cannotRun.empty();
    nlohmann::ordered_json row = {
        {"plan", plan.plan->name()->str()},
        {"fits", plan.fits},
        {"cannot_run", nullptr},
        {"bytes", plan.bytes},
        {"host_bytes", plan.hostBytes},
        {"miss_strategy", fb::EnumNameMissStrategy(plan.plan->miss_strategy())},
        {"experts_on_device", plan.expertsOnDevice},
        {"experts_on_host", plan.expertsOnHost},
        {"bytes_per_token", plan.bytesPerToken},
        {"host_bytes_per_token", plan.hostBytesPerToken},
        {"predicted_tokens_per_second", nullptr}};
    if (!runs)
      row["cannot_run"] = plan.cannotRun;
    if (const fb::Prediction *prediction = plan.plan->prediction())
      row["predicted_tokens_per_second"] = prediction->tokens_per_second();
    plans.push_back(std::move(row));
  }
  return nlohmann::ordered_json{
      {"budget", fit.budget}, {"host_available", fit.hostAvailable}, {"plans", std::move(plans)}}
      .dump();
}

} // namespace moeplan
