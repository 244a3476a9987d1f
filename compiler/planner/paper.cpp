// The planner of Imani, Amirany and El-Ghazawi, "Mixture of Experts with Mixture of Precisions for
// Tuning Quality of Service" (arXiv 2407.14417).
#include "compiler/planner/planner.h"

#include "llvm/ADT/STLExtras.h"

#include <numeric>
#include <random>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

PlannedTier moeplan::compiler::planAsPaper(const CostModel &model, const PaperOptions &options) {
  const FormatInfo *format16 = findFormat(uint32_t(MOEPLAN_FORMAT_BF16));
  const FormatInfo *format4 =
      options.format4 ? options.format4 : findFormat(uint32_t(MOEPLAN_FORMAT_INT4G128));
  const uint32_t numExperts = model.numExperts();
  const uint64_t size4 = model.bytes(ExpertPlacement{{format4, format4, format4}});
  const uint64_t size16 = model.bytes(ExpertPlacement{{format16, format16, format16}});
  const MemoryUse fixed = model.fixedUse();
  const uint64_t unknown = fixed.total() - fixed.weights;
  const uint64_t memory = options.deviceMemory - std::min(unknown, options.deviceMemory);

  uint32_t num16 = 0;
  if (options.num4Bit)
    num16 = numExperts - std::min(*options.num4Bit, numExperts);
  else if (memory > fixed.weights + numExperts * size4)
    num16 =
        std::min<uint64_t>(numExperts, (memory - fixed.weights - numExperts * size4) / (3 * size4));

  // Which experts have 4 bits: a shuffle that is the same everywhere.
  std::vector<uint32_t> order(numExperts);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937_64 random(options.seed);
  for (uint32_t i = numExperts; i > 1; --i)
    std::swap(order[i - 1], order[random() % i]);
  PlannedTier plan;
  plan.placement.experts.resize(numExperts);
  for (auto [rank, expert] : enumerate(order)) {
    const FormatInfo *format = rank < num16 ? format16 : format4;
    plan.placement.experts[expert].formats = {format, format, format};
  }

  if (!model.hasDevice()) { // one memory holds all
    plan.costs = model.evaluate(plan.placement);
    return plan;
  }

  // 4-bit experts first; two swap buffers are set aside as soon as something stays outside.
  uint64_t needed = fixed.weights + num16 * size16 + (numExperts - num16) * size4, room = 0;
  if (needed > memory) {
    const uint64_t buffers =
        model.stagingBytes(MissStrategy::Stream, 0, num16 > 0 ? size16 : size4);
    room = memory - std::min(memory, fixed.weights + buffers);
    plan.placement.miss = MissStrategy::Stream;
  } else {
    room = memory - fixed.weights;
  }
  for (uint32_t expert : reverse(order)) {
    ExpertPlacement &placed = plan.placement.experts[expert];
    const uint64_t size = model.bytes(placed);
    if (size > room)
      continue;
    room -= size;
    placed.residency = Residency::Device;
  }
  plan.costs = model.evaluate(plan.placement);
  return plan;
}
