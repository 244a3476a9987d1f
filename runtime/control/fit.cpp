#include "runtime/control/fit.h"

#include "runtime/artifact/programs.h"
#include "runtime/control/switcher.h"
#include "runtime/device/memory.h"

#include <nlohmann/json.hpp>

namespace moeplan {

namespace {

std::string reasonAgainst(Device &device, const fb::Plan &plan) {
  if (usesDevice(plan) && !device.hasOwnMemory())
    return "keeps experts in device memory, which this device has not";
  const auto *programs = programsOf(plan, device.cuda());
  return programs && programs->size() > 0 ? "" : "has no programs for cuda devices";
}

PlanFit fitOf(Backend &backend, const SessionOptions &options, const fb::Plan &plan,
              const MachineFit &machine) {
  const Residency &residency = backend.residency();
  const fb::Model &model = backend.artifact().model();
  PlanFit fit{&plan, reasonAgainst(backend.device(), plan)};
  if (!fit.cannotRun.empty())
    return fit;
  const PlanWeights weights = residency.weightsOf(plan);
  fit.bytes = countedWeightBytes(residency, plan) + workingBytes(residency, plan);
  // Where it overflows nothing has room for it.
  if (__builtin_add_overflow(fit.bytes, Session::fixedBytes(backend, options), &fit.bytes))
    fit.bytes = Device::kNoBudget;
  for (const Held &held : weights.all())
    if (!residency.counts(held.memory))
      fit.hostBytes += residency.bytesOf(held.segment);
  const double used = double(model.num_experts_per_tok()) / model.num_experts();
  double expertBytes = 0;
  for (const auto &linears : weights.experts) {
    const bool counted = residency.counts(linears[0].memory);
    ++(linears[0].memory == fb::Residency::device ? fit.expertsOnDevice : fit.expertsOnHost);
    for (const Held &held : linears) {
      const double bytes = used * double(residency.bytesOf(held.segment));
      expertBytes += bytes;
      (counted ? fit.bytesPerToken : fit.hostBytesPerToken) += bytes;
    }
  }
  // What is not experts is where the device computes.
  const auto *programs = programsOf(plan, backend.device().cuda());
  fit.bytesPerToken += double(programs->Get(0)->weight_bytes_per_token()) - expertBytes;
  fit.fits = fit.bytes <= machine.budget && fit.hostBytes <= machine.hostAvailable;
  return fit;
}

} // namespace

MachineFit fitOf(Backend &backend, const SessionOptions &options) {
  MachineFit machine;
  machine.hostAvailable = availableMemoryBytes().value_or(Device::kNoBudget);
  machine.budget = backend.device().budget();
  if (machine.budget == Device::kNoBudget)
    machine.budget = machine.hostAvailable;
  for (const fb::Plan *plan : *backend.artifact().metadata().plans())
    machine.plans.push_back(fitOf(backend, options, *plan, machine));
  return machine;
}

std::string describe(const MachineFit &fit) {
  nlohmann::ordered_json plans = nlohmann::ordered_json::array();
  for (const PlanFit &plan : fit.plans) {
    const bool runs = plan.cannotRun.empty();
    nlohmann::ordered_json row = {{"plan", plan.plan->name()->str()},
                                  {"fits", plan.fits},
                                  {"cannot_run", nullptr},
                                  {"bytes", plan.bytes},
                                  {"host_bytes", plan.hostBytes},
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
