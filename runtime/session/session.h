// A sequence being generated: KV cache, position, plan, and the programs that advance it.
#pragma once

#include "runtime/artifact/artifact.h"
#include "runtime/artifact/kernel_formats.h"
#include "runtime/device/device.h"
#include "runtime/device/thread_pool.h"
#include "runtime/executor/executor.h"
#include "runtime/session/backend.h"
#include "runtime/session/boundary.h"
#include "runtime/session/kernel_times.h"
#include "runtime/session/loaded_plan.h"
#include "runtime/session/sampler.h"
#include "runtime/support/status.h"

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moeplan {

struct SessionOptions {
  const char *plan = nullptr; ///< null: the first
  uint32_t contextLength = 0; ///< 0: min(max_position_embeddings, kDefaultContext)
  uint32_t threads = 0;       ///< 0: physical cores
  bool pinThreads = false;    ///< see ThreadPool::pinThreads()
  bool onHost = false;        ///< as if every expert were in host memory
};

class Session;

/// Is told of steps, on the thread that makes them, when they have ended.
class StepListener {
public:
  virtual ~StepListener() = default;
  virtual void stepped(Session &session, size_t tokens) = 0;
};

/// Used by one thread at a time; what says so may be called by others besides.
class Session {
public:
  static constexpr uint32_t kDefaultContext = 4096;

  /// What is refused before any code is loaded. `ownMemory`: of the device.
  static Status check(const Artifact &artifact, const SessionOptions &options, bool ownMemory);
  /// Bytes of the device's memory that a session with `options` takes whatever its plan is: the KV
  /// cache, and on a GPU its input and output.
  static uint64_t fixedBytes(Backend &backend, const SessionOptions &options);
  /// On a CPU of its own. Borrows the artifact.
  static Result<std::unique_ptr<Session>> create(const Artifact &artifact,
                                                 const SessionOptions &options);
  static Result<std::unique_ptr<Session>> create(std::shared_ptr<Backend> backend,
                                                 const SessionOptions &options);
  /// One beside `session` that runs its plan on the same weights as they are, in a KV cache of
  /// `contextLength` positions in the host's memory, on one thread. For the thread that exchanges
  /// its plans, at any time.
  static Result<std::unique_ptr<Session>> createBeside(Session &session, uint32_t contextLength);

  /// See moeplan_session_append().
  Status append(std::span<const int32_t> tokens, size_t logitsCount);
  /// See moeplan_session_append_sampled(); the token.
  Result<int32_t> appendSampled(std::span<const int32_t> tokens, Sampler &sampler);
  /// See moeplan_session_append_counted().
  Result<moeplan_work> appendCounted(std::span<const int32_t> tokens, size_t logitsCount);
  /// See moeplan_session_measure_kernels().
  Result<std::vector<KernelTime>> measureKernels(std::span<const int32_t> tokens,
                                                 size_t logitsCount, uint32_t repetitions);
  /// Row `index` of the last append's logits, float32 [vocab_size]; null where there is none.
  const float *logits(size_t index) const;

  uint32_t position() const { return position_; }
  uint32_t contextLength() const { return contextLength_; }
  uint32_t threads() const { return pool_.threads(); }
  uint32_t vocabSize() const { return artifact().model().vocab_size(); }
  const std::string &targetCpu() const { return backend_->targetCpu(); }
  uint64_t weightBytesPerToken() const;
  void reset() { position_ = 0; }

  /// Called by any thread.
  const fb::Plan &plan() const { return *plan_.load(); }
  const char *planName() const { return plan().name()->c_str(); }
  /// Bytes that this session takes so.
  uint64_t fixedBytes() const;

  // For what controls sessions; called by any thread but that of the session.

  /// Runs `action` between two steps. See Boundary::run().
  void atBoundary(const std::function<void()> &action) { boundary_.run(action); }
  /// Makes a plan ready for this session, while it goes on.
  Result<std::unique_ptr<LoadedPlan>> load(const fb::Plan &plan, const Staging &staging,
                                           const std::set<uint32_t> &deferred = {});
  /// The plan in use; it and what follows are for actions at the boundary only.
  LoadedPlan &active() { return *active_; }
  /// Goes on with `next`; returns what was in use.
  std::unique_ptr<LoadedPlan> flip(std::unique_ptr<LoadedPlan> next);

  /// Borrowed; null: none. Before the first step.
  void setListener(StepListener *listener) { listener_ = listener; }

  // For the compiler's calibration; not in the C API.

  /// Borrowed; null: none.
  void setObserver(DispatchObserver *observer) { observer_ = observer; }
  /// Puts another weight into the expert table, until it is replaced again. `data` is borrowed and
  /// holds the linear's shape in `format`. Errors: MOEPLAN_UNSUPPORTED where a kernel of the plan
  /// cannot read the format; the table is then as before.
  Status replaceExpertWeight(uint32_t layer, uint32_t expert, Linear linear, const void *data,
                             fb::Format format);

private:
  Session(std::shared_ptr<Backend> backend, uint32_t contextLength, uint32_t threads)
      : backend_(std::move(backend)), contextLength_(contextLength), pool_(threads) {}
  Status allocate(Sourcing sourcing);
  SessionMemory memory();
  void use(std::unique_ptr<LoadedPlan> plan);
  bool onCuda() const { return step_ != nullptr; }
  /// append(), where `run` runs a program for a step: (BoundProgram &, const moeplan_step &, float
  /// *logits); `onDevice` one of a cuda device, and returns a Status.
  template <typename OnDevice, typename Run>
  Status appendWith(std::span<const int32_t> tokens, size_t logitsCount, OnDevice &&onDevice,
                    Run &&run);

  const Artifact &artifact() const { return backend_->artifact(); }

  std::shared_ptr<Backend> backend_;
  uint32_t contextLength_;
  std::atomic<uint32_t> position_{0}; ///< read by whoever acts at the boundary
  ThreadPool pool_;
  DeviceMemory keys_, values_;
  std::unique_ptr<DeviceStep> step_; ///< on a cuda device
  HostMemory hostKeys_, hostValues_; ///< in place of them in a session beside another one
  uint64_t kvLayerBytes_ = 0;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
  size_t logitsCount_ = 0;
  DispatchObserver *observer_ = nullptr;
  StepListener *listener_ = nullptr;
  Boundary boundary_;
  std::atomic<const fb::Plan *> plan_{nullptr}; ///< of active_
  std::unique_ptr<LoadedPlan> active_;
};

} // namespace moeplan
