#include "compiler/driver/storage.h"

#include "dialects/plan/PlanDialect.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringMap.h"

#include <map>
#include <set>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// A segment in a memory.
using Held = std::pair<StringRef, plan::Memory>;

std::set<Held> heldBy(plan::PlanOp plan) {
  std::set<Held> held;
  plan.walk([&](plan::ExpertTableOp table) {
    for (auto expert : table.getExperts().getAsRange<plan::ExpertAttr>())
      for (mlir::FlatSymbolRefAttr linear : {expert.getW1(), expert.getW3(), expert.getW2()})
        held.emplace(linear.getValue(), expert.getResidency());
  });
  // A plan with programs for a device runs there.
  const bool onDevice = any_of(plan.getOps<plan::ProgramOp>(), [](plan::ProgramOp program) {
    return program.getMemory() == plan::Memory::Device;
  });
  plan.walk([&](plan::WeightOp weight) {
    const plan::Memory memory = weight->getParentOfType<plan::ProgramOp>().getMemory();
    if (!onDevice || memory == plan::Memory::Device)
      held.emplace(weight.getSegment(), memory);
  });
  return held;
}

} // namespace

StorageReport moeplan::compiler::storageOf(mlir::ModuleOp module) {
  StorageReport report;
  StringMap<uint64_t> bytes;
  for (auto segment : module.getOps<plan::SegmentOp>()) {
    bytes[segment.getSymName()] = segment.getBytes();
    report.storedBytes += segment.getBytes();
    ++report.segments;
  }
  std::vector<std::set<Held>> held;
  std::map<StringRef, unsigned> users;
  for (auto plan : module.getOps<plan::PlanOp>()) {
    StorageReport::Plan &row = report.plans.emplace_back();
    row.name = plan.getSymName().str();
    held.push_back(heldBy(plan));
    std::set<StringRef> segments;
    for (const auto &[segment, memory] : held.back())
      segments.insert(segment);
    for (StringRef segment : segments) {
      row.weightBytes += bytes.lookup(segment);
      ++users[segment];
    }
    plan.walk([&](plan::ProgramOp program) {
      row.arenaBytes = std::max(row.arenaBytes, uint64_t(program.getArenaBytes().value_or(0)));
    });
    report.sumBytes += row.weightBytes;
  }
  for (auto [row, segments] : zip_equal(report.plans, held)) {
    std::set<StringRef> seen;
    for (const auto &[segment, memory] : segments)
      if (users[segment] == 1 && seen.insert(segment).second)
        row.ownBytes += bytes.lookup(segment);
  }
  for (const std::set<Held> &from : held) {
    std::vector<uint64_t> &row = report.switchBytes.emplace_back();
    for (const std::set<Held> &to : held) {
      uint64_t sum = 0;
      for (const Held &segment : to)
        if (!from.count(segment))
          sum += bytes.lookup(segment.first);
      row.push_back(sum);
    }
  }
  return report;
}
