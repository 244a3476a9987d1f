// A sequence being generated: KV cache, position, plan, and the programs that advance it.
#pragma once

#include "kernel_abi.h"
#include "runtime/artifact/artifact.h"
#include "runtime/artifact/kernel_formats.h"
#include "runtime/device/kernel_module.h"
#include "runtime/device/memory.h"
#include "runtime/device/thread_pool.h"
#include "runtime/executor/executor.h"
#include "runtime/session/kernel_times.h"
#include "runtime/support/status.h"

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
};

/// Used by one thread at a time. Borrows the artifact.
class Session {
public:
  static constexpr uint32_t kDefaultContext = 4096;

  static Result<std::unique_ptr<Session>> create(const Artifact &artifact,
                                                 const SessionOptions &options);

  /// See moeplan_session_append().
  Status append(std::span<const int32_t> tokens, size_t logitsCount);
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
  const std::string &targetCpu() const { return targetCpu_; }
  const char *planName() const { return plan_.name()->c_str(); }
  uint64_t weightBytesPerToken() const;
  void reset() { position_ = 0; }

  // For the compiler's calibration; not in the C API.

  /// Borrowed; null: none.
  void setObserver(DispatchObserver *observer) { observer_ = observer; }
  /// Puts another weight into the expert table, until it is replaced again. `data` is borrowed and
  /// holds the linear's shape in `format`. Errors: MOEPLAN_UNSUPPORTED where a kernel of the plan
  /// cannot read the format; the table is then as before.
  Status replaceExpertWeight(uint32_t layer, uint32_t expert, Linear linear, const void *data,
                             fb::Format format);

private:
  Session(const Artifact &artifact, const fb::Plan &plan, uint32_t contextLength, uint32_t threads)
      : artifact_(artifact), plan_(plan), contextLength_(contextLength), pool_(threads) {}
  Status loadKernels(std::vector<moeplan_kernel_fn> &kernels);
  void fillExpertTable();
  Status allocate();
  Status bindPrograms(const std::vector<moeplan_kernel_fn> &kernels);
  BoundProgram &programFor(size_t tokens);
  /// append(), where `run` runs a program for a step: (BoundProgram &, const moeplan_step &, float
  /// *logits).
  template <typename Run>
  Status appendWith(std::span<const int32_t> tokens, size_t logitsCount, Run &&run);

  const Artifact &artifact_;
  const fb::Plan &plan_;
  uint32_t contextLength_;
  uint32_t position_ = 0;
  ThreadPool pool_;
  std::string targetCpu_;
  std::unique_ptr<KernelModule> kernels_;
  std::vector<moeplan_expert> experts_;
  HostMemory keys_, values_, arena_;
  uint64_t kvLayerBytes_ = 0;
  std::vector<int32_t> tokens_;
  std::vector<BoundProgram> programs_; ///< ascending max_tokens
  std::vector<float> logits_;
  size_t logitsCount_ = 0;
  DispatchObserver *observer_ = nullptr;
};

} // namespace moeplan
