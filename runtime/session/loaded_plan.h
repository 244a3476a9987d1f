// A plan made ready to run in one session: its weights where they are to be, its programs bound to
// them.
#pragma once

#include "kernel_abi.h"
#include "runtime/device/device.h"
#include "runtime/executor/device_program.h"
#include "runtime/executor/executor.h"
#include "runtime/residency/expert_slots.h"
#include "runtime/residency/miss_handler.h"
#include "runtime/residency/plan_weights.h"
#include "runtime/residency/residency.h"
#include "runtime/session/backend.h"
#include "runtime/support/status.h"

#include <array>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

namespace moeplan {

/// Memory of a session that its plans share. Borrowed.
struct SessionMemory {
  std::byte *keys = nullptr;
  std::byte *values = nullptr;
  uint64_t kvLayerBytes = 0;
  int32_t *tokens = nullptr;  ///< [the most tokens of any program of the artifact]
  DeviceStep *step = nullptr; ///< null: programs run on the CPU
  ThreadPool *pool = nullptr; ///< for what a device's programs give the host to do
};

/// Where a plan finds its weights.
enum class Sourcing {
  resident, ///< where it keeps them; what is not there yet is brought in
  present,  ///< on the device where they are already, else in the host's memory; nothing is moved
  host      ///< all in the host's memory, as if there were no device
};

/// Used by one thread at a time.
class LoadedPlan {
public:
  /// Experts whose row is in `deferred` stay in the host's memory for now. Errors: those of
  /// Residency::acquire() and Device::allocate(); everything is then as before.
  static Result<std::unique_ptr<LoadedPlan>> load(Backend &backend, const fb::Plan &plan,
                                                  const SessionMemory &memory, Sourcing sourcing,
                                                  const Staging &staging,
                                                  const std::set<uint32_t> &deferred = {});

  const fb::Plan &plan() const { return plan_; }
  const char *name() const { return plan_.name()->c_str(); }
  const PlanWeights &weights() const { return weights_; }
  std::vector<BoundProgram> &programs() { return programs_; } ///< ascending max_tokens
  /// In place of them on a cuda device.
  const std::vector<DeviceProgram> &devicePrograms() const { return devicePrograms_; }
  std::vector<moeplan_expert> &table() { return table_; } ///< [num_layers * num_experts]
  /// Null where the plan never misses.
  ExpertSource *source() { return misses_.get(); }

  /// Gives up the weights of an expert but those in `kept`: it is read from the host's memory from
  /// now on. Only between two runs.
  void evict(uint32_t expert, const std::set<Held> &kept);
  /// Brings them in again, at any time; then putBack() makes the plan use them, between two runs.
  Status bringBack(uint32_t expert, const Staging &staging);
  void putBack(uint32_t expert);
  /// The same for all other weights.
  Status evictDense(const std::set<Held> &kept);
  Status bringBackDense(const Staging &staging);
  Status putBackDense();
  bool isDenseAway() const { return !denseOnHost_.empty(); }
  /// Around a run: what is read over the link, because it is not on the device, takes its time.
  void beginRun();
  void endRun();
  /// Gives up all weights, without haste; the plan cannot run any more.
  void giveUpGently() { lease_.releaseGently(); }
  /// Experts that are not where the plan keeps them.
  const std::set<uint32_t> &away() const { return away_; }

private:
  LoadedPlan(Backend &backend, const fb::Plan &plan, const SessionMemory &memory, Sourcing sourcing)
      : backend_(backend), plan_(plan), memory_(memory), sourcing_(sourcing),
        weights_(sourcing == Sourcing::host ? weightsOf(plan)
                                            : backend.residency().weightsOf(plan)),
        lease_(backend.residency()) {}
  Status bringIn(const Staging &staging, const std::set<uint32_t> &deferred);
  Status acquireExpert(uint32_t expert, const Staging &staging);
  Status fillTable();
  Status bind();
  Status bindDevicePrograms();
  const std::byte *address(Held held) const;
  /// Whether programs run on a cuda device, which reads no memory of the host but what is held.
  bool onCuda() const { return memory_.step != nullptr; }
  moeplan_expert rowOf(uint32_t expert, bool onHost) const;
  /// Writes the row of an expert where a cuda device reads it, too.
  Status tellDevice(uint32_t expert, bool onHost);
  void tellHost(uint32_t expert);
  Status acquireOnHost(uint32_t expert);

  Backend &backend_;
  const fb::Plan &plan_;
  SessionMemory memory_;
  Sourcing sourcing_;
  PlanWeights weights_;
  Lease lease_;
  DeviceMemory deviceArena_;
  HostMemory hostArena_;
  std::vector<moeplan_expert> table_;
  std::unique_ptr<MissHandler> misses_;
  std::set<uint32_t> away_;    ///< experts that are not where the plan keeps them
  std::set<Held> denseOnHost_; ///< other weights that are read there for now
  Device::Transfer reading_;
  std::vector<BoundProgram> programs_;
  DeviceMemory deviceTable_;           ///< a cuda device's copy of table_, which fetching changes
  std::unique_ptr<ExpertSlots> slots_; ///< null where the device fetches nothing
  PinnedMemory pinnedArena_;           ///< for work that the device's programs give the host
  std::vector<moeplan_expert> hostTable_; ///< the host's own for that, which no kernel changes
  std::unique_ptr<HostMisses> hostMisses_;
  std::vector<DeviceProgram> devicePrograms_;
};

/// Bytes of a device's memory that a session takes under a plan, beside weights and what it keeps
/// whatever its plan is: arena, swap buffers or cache slots, on a GPU the expert table.
uint64_t workingBytes(const Residency &residency, const fb::Plan &plan);

} // namespace moeplan
