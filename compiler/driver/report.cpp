#include "compiler/driver/report.h"

#include "compiler/driver/text_table.h"
#include "runtime/support/units.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <map>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

std::string bytesText(uint64_t bytes) { return formatBytes(double(bytes)); }

StringRef preferenceName(const Tier &tier) {
  if (!tier.planned)
    return "-";
  return tier.prefer == Preference::Throughput ? "throughput" : "quality";
}

void writeMemory(json::OStream &out, StringRef key, const MemoryUse &use) {
  out.attributeObject(key, [&] {
    out.attribute("total_bytes", int64_t(use.total()));
    out.attribute("weight_bytes", int64_t(use.weights));
    out.attribute("kv_cache_bytes", int64_t(use.kvCache));
    out.attribute("activation_bytes", int64_t(use.activations));
    out.attribute("staging_bytes", int64_t(use.staging));
    out.attribute("context_bytes", int64_t(use.context));
  });
}

/// Linears by format, widest first.
std::vector<std::pair<const FormatInfo *, unsigned>> countFormats(const Placement &placement) {
  std::map<const FormatInfo *, unsigned> counts; // kFormats is in this order
  for (const ExpertPlacement &expert : placement.experts)
    for (const FormatInfo *format : expert.formats)
      ++counts[format];
  return {counts.begin(), counts.end()};
}

void printStorage(raw_ostream &out, const StorageReport &storage) {
  out << "\n";
  std::vector<std::vector<std::string>> rows{{"weights", "bytes", "of it in no other plan"}};
  for (const StorageReport::Plan &plan : storage.plans)
    rows.push_back({plan.name, std::to_string(plan.weightBytes), std::to_string(plan.ownBytes)});
  rows.push_back({"sum over plans", std::to_string(storage.sumBytes)});
  rows.push_back(
      {"stored", std::to_string(storage.storedBytes),
       formatv("{0:F1} % of the sum, {1} segments",
               100.0 * double(storage.storedBytes) / double(storage.sumBytes), storage.segments)
           .str()});
  printTable(out, rows);
  if (storage.plans.size() < 2)
    return;
  out << "\n";
  rows = {{"bytes to move, from"}};
  for (const StorageReport::Plan &plan : storage.plans)
    rows.front().push_back("to " + plan.name);
  for (auto [plan, bytes] : zip_equal(storage.plans, storage.switchBytes)) {
    rows.push_back({plan.name});
    for (uint64_t amount : bytes)
      rows.back().push_back(std::to_string(amount));
  }
  printTable(out, rows);
}

void writeStorage(json::OStream &out, const StorageReport &storage) {
  out.attributeObject("storage", [&] {
    out.attribute("stored_bytes", int64_t(storage.storedBytes));
    out.attribute("sum_over_plans_bytes", int64_t(storage.sumBytes));
    out.attribute("segments", int64_t(storage.segments));
    out.attributeArray("plans", [&] {
      for (const StorageReport::Plan &plan : storage.plans)
        out.object([&] {
          out.attribute("name", plan.name);
          out.attribute("weight_bytes", int64_t(plan.weightBytes));
          out.attribute("own_bytes", int64_t(plan.ownBytes));
          out.attribute("arena_bytes", int64_t(plan.arenaBytes));
        });
    });
    out.attributeArray("switches", [&] {
      for (auto [from, row] : zip_equal(storage.plans, storage.switchBytes))
        for (auto [to, bytes] : zip_equal(storage.plans, row))
          if (from.name != to.name)
            out.object([&] {
              out.attribute("from", from.name);
              out.attribute("to", to.name);
              out.attribute("bytes", int64_t(bytes));
            });
    });
  });
}

} // namespace

std::string moeplan::compiler::formatCounts(const Placement &placement) {
  std::vector<std::string> parts;
  for (const auto &[format, count] : countFormats(placement))
    parts.push_back(std::string(format->name) + " x " + std::to_string(count));
  return join(parts, ", ");
}

std::string moeplan::compiler::printPlans(const PlansReport &report) {
  std::string text;
  raw_string_ostream out(text);
  const bool hasTimes = !report.profile.empty();
  std::vector<std::vector<std::string>> rows{{"plan", "prefers", "bits"}};
  auto addColumn = [&](bool wanted, const char *title) {
    if (wanted)
      rows.front().push_back(title);
  };
  addColumn(report.hasDevice, "on device");
  addColumn(report.hasDevice, "device memory");
  addColumn(true, "host memory");
  addColumn(true, "perplexity");
  addColumn(hasTimes, "tokens/s");
  addColumn(hasTimes, "prefill tokens/s");
  addColumn(report.hasDevice, "misses");
  addColumn(true, "gap");
  for (const auto &[tier, plan] : report.tiers) {
    const PlacementCosts &costs = plan.costs;
    std::vector<std::string> row{tier.name, preferenceName(tier).str(),
                                 formatv("{0:F2}", costs.bitsPerWeight).str()};
    if (report.hasDevice) {
      row.push_back(std::to_string(costs.expertsOnDevice) + "/" +
                    std::to_string(report.numExperts));
      row.push_back(bytesText(costs.device.total()));
    }
    row.push_back(bytesText(costs.host.total()));
    row.push_back(formatv("+{0:F3} %", 100 * costs.perplexityIncrease).str());
    if (hasTimes) {
      row.push_back(formatRate(costs.tokensPerSecond));
      row.push_back(formatRate(costs.prefillTokensPerSecond));
    }
    if (report.hasDevice)
      row.push_back(std::string(missStrategyName(plan.placement.miss)) +
                    (plan.placement.cacheSlots
                         ? " (" + std::to_string(plan.placement.cacheSlots) + " slots)"
                         : ""));
    row.push_back(tier.planned ? formatv("{0:F2} %", 100 * plan.gap).str() : "-");
    rows.push_back(std::move(row));
  }
  printTable(out, rows);
  out << "\n";
  for (const auto &[tier, plan] : report.tiers)
    out << tier.name << ": " << formatCounts(plan.placement) << "\n";
  out << "Context " << report.context << ", batch " << report.batch
      << ". Quality as predicted from " << report.qualitySource << ".\n";
  if (hasTimes)
    out << "Speed as predicted for: " << report.profile << ".\n";
  if (report.storage)
    printStorage(out, *report.storage);
  return text;
}

std::string moeplan::compiler::plansJson(const PlansReport &report, const CudaReport &cuda) {
  std::string text;
  raw_string_ostream stream(text);
  json::OStream out(stream, 2);
  out.object([&] {
    out.attribute("context", report.context);
    out.attribute("batch", report.batch);
    out.attribute("profile",
                  report.profile.empty() ? json::Value(nullptr) : json::Value(report.profile));
    out.attribute("quality_source", report.qualitySource);
    out.attributeArray("plans", [&] {
      for (const auto &[tier, plan] : report.tiers)
        out.object([&] {
          const PlacementCosts &costs = plan.costs;
          out.attribute("name", tier.name);
          out.attribute("planned", tier.planned);
          out.attribute("prefer",
                        tier.planned ? json::Value(preferenceName(tier)) : json::Value(nullptr));
          out.attribute("bits_per_weight", costs.bitsPerWeight);
          out.attribute("experts_on_device", costs.expertsOnDevice);
          writeMemory(out, "device_memory", costs.device);
          writeMemory(out, "host_memory", costs.host);
          out.attribute("perplexity_increase", costs.perplexityIncrease);
          if (!report.profile.empty()) {
            out.attribute("tokens_per_second", costs.tokensPerSecond);
            out.attribute("prefill_tokens_per_second", costs.prefillTokensPerSecond);
          }
          out.attribute("miss_strategy", StringRef(missStrategyName(plan.placement.miss)));
          out.attribute("cache_slots", plan.placement.cacheSlots);
          out.attribute("gap", plan.gap);
          out.attributeObject("linears_by_format", [&] {
            for (const auto &[format, count] : countFormats(plan.placement))
              out.attribute(StringRef(format->name), count);
          });
        });
    });
    if (report.storage)
      writeStorage(out, *report.storage);
    if (!cuda.kernels.empty())
      writeCuda(out, cuda);
  });
  stream << "\n";
  return text;
}
