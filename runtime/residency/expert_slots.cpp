#include "runtime/residency/expert_slots.h"

#include "runtime/residency/miss_handler.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace moeplan {

namespace {

bool keepsExperts(const fb::Plan &plan) { return plan.miss_strategy() == fb::MissStrategy::cached; }

/// Slots of a layer. Swap buffers are each layer's in turn.
uint32_t slotsOfLayer(const Residency &residency, const fb::Plan &plan) {
  const fb::Model &model = residency.artifact().model();
  const uint64_t count = slotLayoutOf(residency, plan).count;
  return static_cast<uint32_t>(std::min<uint64_t>(
      keepsExperts(plan) ? count / model.num_layers() : count, model.num_experts()));
}

} // namespace

uint64_t ExpertSlots::bytesOf(const Residency &residency, const fb::Plan &plan) {
  const SlotLayout layout = slotLayoutOf(residency, plan);
  if (layout.count == 0)
    return 0;
  const uint64_t layers = residency.artifact().model().num_layers();
  return layout.bytes() + plan.experts()->size() * sizeof(moeplan_expert) +
         layers * (slotsOfLayer(residency, plan) * sizeof(moeplan_expert_slot) +
                   sizeof(moeplan_expert_slots));
}

Result<std::unique_ptr<ExpertSlots>> ExpertSlots::create(Residency &residency,
                                                         const fb::Plan &plan) {
  std::unique_ptr<ExpertSlots> made(new ExpertSlots(residency));
  const fb::Model &model = residency.artifact().model();
  const uint32_t numLayers = made->numLayers_ = model.num_layers(),
                 numExperts = model.num_experts();
  const SlotLayout layout = slotLayoutOf(residency, plan);
  const bool keeps = keepsExperts(plan);
  const uint32_t perLayer = slotsOfLayer(residency, plan);
  Device &device = residency.device();
  MOEPLAN_ASSIGN(made->memory_, device.allocate(layout.bytes(), "swap buffers and cache slots"));
  std::vector<moeplan_expert_slot> states(uint64_t(perLayer) * numLayers, {MOEPLAN_NO_EXPERT, 0});
  const std::span stateBytes = std::as_bytes(std::span(states));
  MOEPLAN_ASSIGN(made->states_, device.allocate(stateBytes.size(), "slots"));
  MOEPLAN_ASSIGN(made->homes_,
                 device.allocate(sizeof(moeplan_expert) * numLayers * numExperts, "expert table"));
  MOEPLAN_ASSIGN(made->totals_,
                 device.cuda()->allocatePinned(kTotals * sizeof(uint64_t) * numLayers));
  std::memset(made->totals_.data(), 0, kTotals * sizeof(uint64_t) * numLayers);

  std::vector<moeplan_expert_slots> layers(numLayers);
  for (uint32_t layer = 0; layer < numLayers; ++layer) {
    const auto at = [&](const std::byte *base, uint64_t offset) {
      return const_cast<std::byte *>(base) + offset;
    };
    const uint64_t first = uint64_t(layer) * perLayer;
    moeplan_expert_slots &slots = layers[layer];
    slots.homes = reinterpret_cast<const moeplan_expert *>(
        at(made->homes_.data(), sizeof(moeplan_expert) * layer * numExperts));
    slots.memory =
        reinterpret_cast<char *>(at(made->memory_.data(), keeps ? first * layout.slotBytes : 0));
    slots.slots = reinterpret_cast<moeplan_expert_slot *>(
        at(made->states_.data(), first * sizeof(moeplan_expert_slot)));
    slots.totals = reinterpret_cast<uint64_t *>(
        at(made->totals_.onDevice(), kTotals * sizeof(uint64_t) * layer));
    slots.slot_bytes = layout.slotBytes;
    slots.count = perLayer;
    slots.keeps = keeps;
  }
  const std::span layerBytes = std::as_bytes(std::span(layers));
  MOEPLAN_ASSIGN(made->layers_, device.allocate(layerBytes.size(), "slots"));
  MOEPLAN_TRY(made->copy(made->states_, 0, stateBytes));
  MOEPLAN_TRY(made->copy(made->layers_, 0, layerBytes));
  return made;
}

Status ExpertSlots::copy(const DeviceMemory &target, uint64_t offset,
                         std::span<const std::byte> bytes) {
  Device &device = residency_.device();
  MOEPLAN_ASSIGN(const Device::Transfer transfer,
                 device.beginCopy(target.data() + offset, bytes.data(), bytes.size()));
  return device.finish(transfer);
}

Status ExpertSlots::setHomes(uint32_t first, std::span<const moeplan_expert> rows) {
  return copy(homes_, first * sizeof(moeplan_expert), std::as_bytes(rows));
}

void ExpertSlots::count() {
  std::array<uint64_t, kTotals> totals{};
  for (uint32_t layer = 0; layer < numLayers_; ++layer)
    for (size_t i = 0; i < kTotals; ++i) {
      uint64_t total = 0;
      std::memcpy(&total, totals_.data() + (kTotals * layer + i) * sizeof(total), sizeof(total));
      totals[i] += total;
    }
  ResidencyCounters &counters = residency_.counters();
  std::atomic<uint64_t> *const to[kTotals] = {&counters.hits, &counters.misses,
                                              &counters.missBytes};
  for (size_t i = 0; i < kTotals; ++i)
    *to[i] += totals[i] - counted_[i];
  counted_ = totals;
}

} // namespace moeplan
