// What is done when tokens are routed to an expert that is not in the device's memory.
#pragma once

#include "kernel_abi.h"
#include "runtime/executor/executor.h"
#include "runtime/residency/residency.h"

#include <memory>
#include <span>
#include <vector>

namespace moeplan {

/// Memory of the device for experts that a plan keeps on the host: two swap buffers of `stream`, or
/// the cache slots of all layers. A slot has room for the largest of them, its linears at multiples
/// of 64 bytes.
struct SlotLayout {
  uint64_t count = 0, slotBytes = 0;
  uint64_t bytes() const { return count * slotBytes; }
};
SlotLayout slotLayoutOf(const Residency &residency, const fb::Plan &plan);

/// Follows the miss strategy of a plan. An expert that a plan keeps on the device but that has been
/// evicted is read in place where the plan has no strategy of its own. Used by one thread at a
/// time.
class MissHandler : public ExpertSource {
public:
  /// `table` [num_layers * num_experts] is the plan's expert table, which it changes. Takes the
  /// swap buffers or cache slots from the device. Everything is borrowed.
  static Result<std::unique_ptr<MissHandler>> create(Residency &residency, const fb::Plan &plan,
                                                     std::span<moeplan_expert> table);

  /// Row `index` of the table is kept on the device from now on, or not; the row is made right.
  void setOnDevice(uint32_t index, bool onDevice);
  bool isOnDevice(uint32_t index) const { return onDevice_[index]; }

  bool hasMisses(uint32_t layer) const override { return missesIn_[layer] > 0; }
  uint32_t prepare(uint32_t layer, std::span<const uint32_t> begin, uint32_t first,
                   bool undivided) override;
  void finish() override;

private:
  /// Memory for one expert: a swap buffer, or a cache slot of a layer.
  struct Slot {
    std::byte *data = nullptr;
    uint32_t expert = kNone; ///< of the layer, that is in it
    uint64_t lastUse = 0;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  MissHandler(Residency &residency, const fb::Plan &plan, std::span<moeplan_expert> table);
  Status allocateSlots();
  uint64_t bytesOf(uint32_t index) const;
  void pointTo(uint32_t index, const std::array<const void *, 3> &linears);
  void pointToHost(uint32_t index);
  std::span<Slot> slotsFor(uint32_t layer);
  /// Makes a row point to a slot that holds the expert; false where none is free in this group.
  bool useSlot(uint32_t layer, uint32_t expert);
  bool fill(Slot &slot, uint32_t index);

  Residency &residency_;
  const fb::Plan &plan_;
  std::span<moeplan_expert> table_;
  fb::MissStrategy strategy_;
  uint32_t numExperts_;
  uint64_t tokenBytes_; ///< of a token's activations, there and back
  uint64_t slotBytes_ = 0;
  DeviceMemory slotMemory_;
  std::vector<Slot> slots_;
  std::vector<char> onDevice_;     ///< by row
  std::vector<uint32_t> missesIn_; ///< by layer: rows that are not on the device
  uint64_t group_ = 0;             ///< number of the group under way
  Device::Transfer reading_;
};

/// Counts the experts that the host computes for a cuda device: which rows of its table are for the
/// host is known on the device.
class HostMisses : public ExpertSource {
public:
  explicit HostMisses(Residency &residency);

  bool hasMisses(uint32_t) const override { return true; }
  uint32_t prepare(uint32_t layer, std::span<const uint32_t> begin, uint32_t first,
                   bool undivided) override;
  void finish() override {}

private:
  ResidencyCounters &counters_;
  uint64_t tokenBytes_; ///< of a token's activations, there and back
};

} // namespace moeplan
