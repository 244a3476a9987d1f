#include "runtime/residency/miss_handler.h"

#include <algorithm>

namespace moeplan {

namespace {

/// Swap buffers of `stream`, as the planner counts them.
constexpr uint32_t kSwapBuffers = 2;

std::array<uint32_t, 3> segmentsOf(const fb::Expert &expert) {
  return {expert.w1(), expert.w3(), expert.w2()};
}

uint64_t aligned(uint64_t bytes) {
  return (bytes + MOEPLAN_SLOT_ALIGNMENT - 1) / MOEPLAN_SLOT_ALIGNMENT * MOEPLAN_SLOT_ALIGNMENT;
}

/// What an expert takes of a slot.
uint64_t slotBytesOf(const Residency &residency, const fb::Expert &expert) {
  uint64_t bytes = 0;
  for (uint32_t segment : segmentsOf(expert))
    bytes += aligned(residency.bytesOf(segment));
  return bytes;
}

uint64_t slotCountOf(const Residency &residency, const fb::Plan &plan) {
  switch (plan.miss_strategy()) {
  case fb::MissStrategy::stream:
    return kSwapBuffers;
  case fb::MissStrategy::cached:
    return uint64_t(plan.cache_slots()) * residency.artifact().model().num_layers();
  default:
    return 0;
  }
}

/// Of a token's activations, there and back.
uint64_t tokenBytesOf(const Residency &residency) {
  return 2 * sizeof(float) * uint64_t(residency.artifact().model().hidden_size());
}

} // namespace

SlotLayout slotLayoutOf(const Residency &residency, const fb::Plan &plan) {
  SlotLayout layout{slotCountOf(residency, plan), 0};
  if (layout.count > 0)
    for (const fb::Expert *expert : *plan.experts())
      if (expert->residency() == fb::Residency::host)
        layout.slotBytes = std::max(layout.slotBytes, slotBytesOf(residency, *expert));
  return layout;
}

MissHandler::MissHandler(Residency &residency, const fb::Plan &plan,
                         std::span<moeplan_expert> table)
    : residency_(residency), plan_(plan), table_(table), strategy_(plan.miss_strategy()),
      numExperts_(residency.artifact().model().num_experts()), tokenBytes_(tokenBytesOf(residency)),
      onDevice_(table.size(), 1), missesIn_(residency.artifact().model().num_layers()) {}

Result<std::unique_ptr<MissHandler>> MissHandler::create(Residency &residency, const fb::Plan &plan,
                                                         std::span<moeplan_expert> table) {
  std::unique_ptr<MissHandler> handler(new MissHandler(residency, plan, table));
  MOEPLAN_TRY(handler->allocateSlots());
  for (uint32_t i = 0; i < table.size(); ++i)
    handler->setOnDevice(i, plan.experts()->Get(i)->residency() == fb::Residency::device);
  return handler;
}

uint64_t MissHandler::bytesOf(uint32_t index) const {
  return slotBytesOf(residency_, *plan_.experts()->Get(index));
}

Status MissHandler::allocateSlots() {
  const SlotLayout layout = slotLayoutOf(residency_, plan_);
  slots_.resize(layout.count);
  if (slots_.empty())
    return {};
  slotBytes_ = layout.slotBytes;
  MOEPLAN_ASSIGN(slotMemory_,
                 residency_.device().allocate(layout.bytes(), "swap buffers and cache slots"));
  for (size_t i = 0; i < slots_.size(); ++i)
    slots_[i].data = slotMemory_.data() + i * slotBytes_;
  return {};
}

void MissHandler::pointTo(uint32_t index, const std::array<const void *, 3> &linears) {
  moeplan_expert &row = table_[index];
  row.w1 = linears[0];
  row.w3 = linears[1];
  row.w2 = linears[2];
}

void MissHandler::pointToHost(uint32_t index) {
  const auto [w1, w3, w2] = segmentsOf(*plan_.experts()->Get(index));
  const Artifact &artifact = residency_.artifact();
  pointTo(index,
          {artifact.weight(w1).data(), artifact.weight(w3).data(), artifact.weight(w2).data()});
}

void MissHandler::setOnDevice(uint32_t index, bool onDevice) {
  if (onDevice) {
    const auto [w1, w3, w2] = segmentsOf(*plan_.experts()->Get(index));
    auto at = [&](uint32_t segment) {
      return residency_.address({segment, fb::Residency::device});
    };
    pointTo(index, {at(w1), at(w3), at(w2)});
  } else {
    pointToHost(index);
  }
  if (bool(onDevice_[index]) == onDevice)
    return;
  onDevice_[index] = onDevice;
  missesIn_[index / numExperts_] += onDevice ? -1 : 1;
}

std::span<MissHandler::Slot> MissHandler::slotsFor(uint32_t layer) {
  if (strategy_ != fb::MissStrategy::cached)
    return slots_;
  const uint32_t perLayer = plan_.cache_slots();
  return std::span(slots_).subspan(uint64_t(layer) * perLayer, perLayer);
}

/// Copies an expert into `slot`; false where the copy fails.
bool MissHandler::fill(Slot &slot, uint32_t index) {
  slot.expert = kNone;
  std::byte *target = slot.data;
  for (uint32_t segment : segmentsOf(*plan_.experts()->Get(index))) {
    const std::span<const std::byte> source = residency_.artifact().weight(segment);
    auto transfer = residency_.device().beginCopy(target, source.data(), source.size());
    if (!transfer.ok())
      return false;
    if (!residency_.device().finish(transfer.value()).ok())
      return false;
    target += aligned(source.size());
    residency_.counters().missBytes += source.size();
  }
  return true;
}

bool MissHandler::useSlot(uint32_t layer, uint32_t expert) {
  const uint32_t index = layer * numExperts_ + expert;
  const bool cached = strategy_ == fb::MissStrategy::cached;
  const std::span<Slot> slots = slotsFor(layer);
  auto slot = slots.end();
  if (cached)
    slot = std::find_if(slots.begin(), slots.end(),
                        [&](const Slot &slot) { return slot.expert == expert; });
  const bool hit = slot != slots.end();
  if (!hit) {
    slot = std::min_element(slots.begin(), slots.end(),
                            [](const Slot &a, const Slot &b) { return a.lastUse < b.lastUse; });
    if (slot->lastUse == group_)
      return false;
  }
  slot->lastUse = group_;
  ++(hit ? residency_.counters().hits : residency_.counters().misses);
  if (!hit && !fill(*slot, index)) {
    pointToHost(index); // where it can still be read
    return true;
  }
  slot->expert = expert;
  const auto [w1, w3, w2] = segmentsOf(*plan_.experts()->Get(index));
  const std::byte *second = slot->data + aligned(residency_.bytesOf(w1));
  pointTo(index, {slot->data, second, second + aligned(residency_.bytesOf(w3))});
  return true;
}

uint32_t MissHandler::prepare(uint32_t layer, std::span<const uint32_t> begin, uint32_t first,
                              bool undivided) {
  ++group_;
  uint64_t passed = 0; // bytes that the link is to carry while the group is computed
  uint32_t expert = first;
  for (; expert < numExperts_; ++expert) {
    const uint32_t index = layer * numExperts_ + expert, tokens = begin[expert + 1] - begin[expert];
    if (tokens == 0 || onDevice_[index])
      continue;
    if (!slots_.empty() && bytesOf(index) <= slotBytes_) {
      if (useSlot(layer, expert))
        continue;
      if (!undivided)
        break;
    }
    pointToHost(index);
    ++residency_.counters().misses;
    passed += strategy_ == fb::MissStrategy::host_compute ? tokens * tokenBytes_ : bytesOf(index);
  }
  residency_.counters().missBytes += passed;
  reading_ = passed > 0 ? residency_.device().beginReading(passed) : Device::Transfer();
  return expert;
}

void MissHandler::finish() {
  (void)residency_.device().finish(reading_); // reads of kernels, which do not fail
}

HostMisses::HostMisses(Residency &residency)
    : counters_(residency.counters()), tokenBytes_(tokenBytesOf(residency)) {}

uint32_t HostMisses::prepare(uint32_t, std::span<const uint32_t> begin, uint32_t, bool) {
  const auto numExperts = static_cast<uint32_t>(begin.size() - 1);
  for (uint32_t expert = 0; expert < numExperts; ++expert)
    counters_.misses += begin[expert + 1] > begin[expert];
  counters_.missBytes += begin.back() * tokenBytes_;
  return numExperts;
}

} // namespace moeplan
