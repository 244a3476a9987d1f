// Where a cuda device fetches experts to that the host keeps (kernels/cuda/fetch.cuh).
#pragma once

#include "kernel_abi.h"
#include "runtime/residency/residency.h"

#include <array>
#include <memory>
#include <span>

namespace moeplan {

/// The slots of a plan whose strategy is `stream` or `cached`. Used by one thread at a time.
class ExpertSlots {
public:
  /// `residency`, of a cuda device, and `plan` must outlive it. Errors: those of
  /// Device::allocate().
  static Result<std::unique_ptr<ExpertSlots>> create(Residency &residency, const fb::Plan &plan);

  /// What create() takes of the device's memory; 0 where the plan fetches nothing.
  static uint64_t bytesOf(const Residency &residency, const fb::Plan &plan);

  /// moeplan_expert_slots [num_layers], on the device.
  const std::byte *onDevice() const { return layers_.data(); }
  /// Where rows `first` .. of the expert table are from now on; between two steps.
  Status setHomes(uint32_t first, std::span<const moeplan_expert> rows);
  /// Adds to the residency's counters what was fetched since the last call. No step may be under
  /// way.
  void count();

private:
  static constexpr size_t kTotals = 3; ///< of a layer: moeplan_expert_slots::totals

  explicit ExpertSlots(Residency &residency) : residency_(residency) {}
  Status copy(const DeviceMemory &target, uint64_t offset, std::span<const std::byte> bytes);

  Residency &residency_;
  DeviceMemory memory_, states_, homes_, layers_;
  PinnedMemory totals_;
  std::array<uint64_t, kTotals> counted_{};
  uint32_t numLayers_ = 0;
};

} // namespace moeplan
