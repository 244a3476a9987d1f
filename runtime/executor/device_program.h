// Programs of cuda kernels, each captured as one graph, and what a step of a session needs on the
// device.
#pragma once

#include "kernel_abi.h"
#include "runtime/device/cuda/kernels.h"
#include "runtime/executor/executor.h"
#include "runtime/executor/host_work.h"

#include <memory>
#include <span>
#include <vector>

namespace moeplan {

/// The stream of a session, and where its programs find step, tokens and logits. Used by one thread
/// at a time. Borrows the device.
class DeviceStep {
public:
  /// For steps of up to `maxTokens`. Errors: MOEPLAN_RESOURCE_EXHAUSTED.
  static Result<std::unique_ptr<DeviceStep>> create(CudaDevice &device, uint32_t maxTokens,
                                                    uint32_t vocabSize);
  /// What create() takes of the device's memory.
  static uint64_t bytesFor(uint32_t maxTokens, uint32_t vocabSize);
  uint64_t bytes() const {
    return deviceInput_.bytes() + deviceLogits_.bytes() + deviceCandidates_.bytes();
  }
  ~DeviceStep();
  DeviceStep(const DeviceStep &) = delete;
  DeviceStep &operator=(const DeviceStep &) = delete;

  /// Runs `program`. Row r of the logits, for step.logits_begin <= r < step.token_count, goes to
  /// logits + (r - step.logits_begin) * vocabSize. `tokens` [step.token_count]. Returns when that
  /// has been done. Errors: MOEPLAN_IO_ERROR from the driver.
  Status run(const class DeviceProgram &program, const moeplan_step &step,
             std::span<const int32_t> tokens, float *logits);
  /// The same, but the logits stay on the device: the candidates of the last row, which has to be
  /// wanted. They live until the next run.
  Result<std::span<const moeplan_candidate>> runForCandidates(const class DeviceProgram &program,
                                                              const moeplan_step &step,
                                                              std::span<const int32_t> tokens);
  /// The same results, one dispatch after the other: `observer` is told of each, with the operands
  /// that workOf() wants; `timer`, which may be null, besides of what it took. `table` is the
  /// host's [num_layers * num_experts].
  Status runOneByOne(const class DeviceProgram &program, const moeplan_step &step,
                     std::span<const int32_t> tokens, float *logits, const moeplan_expert *table,
                     DispatchObserver &observer, DispatchTimer *timer);

private:
  friend class DeviceProgram;
  DeviceStep(CudaDevice &device, uint32_t vocabSize) : device_(device), vocabSize_(vocabSize) {}

  CudaDevice &device_;
  /// Launches and fetches; after an error nothing is under way any more, neither here nor on the
  /// host's threads.
  template <typename Fetch> Status launch(const class DeviceProgram &program, Fetch &&fetch);
  /// Copies the wanted rows once the stream has made them.
  Status fetchLogits(const moeplan_step &step, float *logits);
  void setInput(const moeplan_step &step, std::span<const int32_t> tokens);

  const uint32_t vocabSize_;
  cuda::Stream stream_ = nullptr;
  PinnedMemory input_;            ///< moeplan_step, then the tokens
  DeviceMemory deviceInput_;      ///< the same; a copy of it is the first node of every graph
  DeviceMemory deviceLogits_;     ///< float32 [maxTokens, vocabSize]
  PinnedMemory logits_;           ///< float32 [kLogitsRows, vocabSize]
  DeviceMemory deviceCandidates_; ///< moeplan_candidate [MOEPLAN_CANDIDATES]
  PinnedMemory candidates_;       ///< the same
  static constexpr uint32_t kLogitsRows = 8;
};

/// One program as a graph that is ready to be launched. What the host does is a node of it, beside
/// those of the device.
class DeviceProgram {
public:
  /// `memory` as for BoundProgram, with addresses on the device; its `tokens` are not used. `step`
  /// and `kernels` must outlive the program. Errors: those of the driver, naming the program.
  static Result<DeviceProgram> bind(const Artifact &artifact, const fb::Program &program,
                                    CudaKernels &kernels, DeviceStep &step,
                                    const ProgramMemory &memory, const HostSide &host);
  ~DeviceProgram();
  DeviceProgram(DeviceProgram &&other) noexcept;
  DeviceProgram &operator=(DeviceProgram &&other) noexcept;

  uint32_t maxTokens() const { return maxTokens_; }

private:
  friend class DeviceStep;
  DeviceProgram() = default;

  enum class Kind { kernel, copy, hostWork, join };
  struct Command {
    Kind kind = Kind::kernel;
    cuda::Function function = nullptr;
    uint32_t tiles = 0, rows = 1, threads = 0, sharedBytes = 0;
    uint64_t copyBytes = 0;
    std::vector<cuda::Pointer> operands; ///< of a kernel: the step first; of a copy: target, source
    const fb::Dispatch *dispatch = nullptr; ///< of a kernel
    bool readsExperts = false;
    std::unique_ptr<HostWork> work;
  };
  /// What is bound, and the device's place for it.
  struct Source {
    const Artifact &artifact;
    const fb::Program &program;
    CudaKernels &kernels;
    DeviceStep &step;
    const ProgramMemory &memory;
    const HostSide &host;
  };
  class Capture;
  Status resolve(const Source &source);
  Result<Command> resolveDispatch(const Source &source, const fb::Dispatch &dispatch) const;
  static cuda::Pointer operandOf(const Source &source, const fb::Binding &binding);
  Status launch(const Command &command, cuda::Stream stream) const;
  Status capture(DeviceStep &step);

  const CudaDevice *device_ = nullptr;
  std::vector<Command> commands_;
  uint32_t numExperts_ = 0;
  cuda::GraphExec graph_ = nullptr;
  uint32_t maxTokens_ = 0;
};

} // namespace moeplan
