#include "runtime/executor/device_program.h"

#include "runtime/artifact/kernel_formats.h"
#include "runtime/artifact/kernel_libraries.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace moeplan {

namespace {

/// Tokens begin at a multiple of 16 behind the step.
constexpr uint64_t kTokensOffset = (sizeof(moeplan_step) + 15) / 16 * 16;

cuda::Pointer addressOf(const std::byte *pointer) { return reinterpret_cast<uintptr_t>(pointer); }

constexpr uint64_t kCandidatesBytes = MOEPLAN_CANDIDATES * sizeof(moeplan_candidate);

/// Whether a dispatch is followed through an expert table to weights: the slots of experts come
/// behind the table then.
bool readsExperts(const Artifact &artifact, const fb::Dispatch &dispatch) {
  const auto access = expertAccessOf(*artifact.metadata().kernels()->Get(dispatch.kernel()));
  return access && access->kernel->readsAny();
}

uint64_t inputBytes(uint32_t maxTokens) { return kTokensOffset + maxTokens * sizeof(int32_t); }
uint64_t logitsBytes(uint64_t rows, uint32_t vocabSize) { return rows * vocabSize * sizeof(float); }

} // namespace

uint64_t DeviceStep::bytesFor(uint32_t maxTokens, uint32_t vocabSize) {
  return inputBytes(maxTokens) + logitsBytes(maxTokens, vocabSize) + kCandidatesBytes;
}

Result<std::unique_ptr<DeviceStep>> DeviceStep::create(CudaDevice &device, uint32_t maxTokens,
                                                       uint32_t vocabSize) {
  std::unique_ptr<DeviceStep> step(new DeviceStep(device, vocabSize));
  MOEPLAN_TRY(device.use());
  MOEPLAN_CUDA(device.driver(), streamCreate, &step->stream_, cuda::kStreamNonBlocking);
  MOEPLAN_ASSIGN(step->input_, device.allocatePinned(inputBytes(maxTokens)));
  MOEPLAN_ASSIGN(step->deviceInput_, device.allocate(inputBytes(maxTokens), "tokens"));
  MOEPLAN_ASSIGN(step->deviceLogits_, device.allocate(logitsBytes(maxTokens, vocabSize), "logits"));
  MOEPLAN_ASSIGN(step->logits_, device.allocatePinned(logitsBytes(kLogitsRows, vocabSize)));
  MOEPLAN_ASSIGN(step->deviceCandidates_, device.allocate(kCandidatesBytes, "candidates"));
  MOEPLAN_ASSIGN(step->candidates_, device.allocatePinned(kCandidatesBytes));
  return step;
}

DeviceStep::~DeviceStep() {
  if (stream_ && device_.use().ok())
    device_.driver().streamDestroy(stream_);
}

template <typename Fetch> Status DeviceStep::launch(const DeviceProgram &program, Fetch &&fetch) {
  const cuda::Driver &driver = device_.driver();
  MOEPLAN_CUDA(driver, graphLaunch, program.graph_, stream_);
  Status status = fetch();
  if (!status.ok())
    (void)driver.streamSynchronize(stream_);
  return status;
}

Status DeviceStep::run(const DeviceProgram &program, const moeplan_step &step,
                       std::span<const int32_t> tokens, float *logits) {
  MOEPLAN_TRY(device_.use());
  setInput(step, tokens);
  return launch(program, [&] { return fetchLogits(step, logits); });
}

Result<std::span<const moeplan_candidate>>
DeviceStep::runForCandidates(const DeviceProgram &program, const moeplan_step &step,
                             std::span<const int32_t> tokens) {
  const cuda::Driver &driver = device_.driver();
  MOEPLAN_TRY(device_.use());
  setInput(step, tokens);
  MOEPLAN_TRY(launch(program, [&]() -> Status {
    MOEPLAN_CUDA(driver, copyToHostAsync, candidates_.data(), addressOf(deviceCandidates_.data()),
                 kCandidatesBytes, stream_);
    return driver.check(driver.streamSynchronize(stream_), "streamSynchronize");
  }));
  return std::span(reinterpret_cast<const moeplan_candidate *>(candidates_.data()),
                   std::min<size_t>(MOEPLAN_CANDIDATES, vocabSize_));
}

Status DeviceStep::runOneByOne(const DeviceProgram &program, const moeplan_step &step,
                               std::span<const int32_t> tokens, float *logits,
                               const moeplan_expert *table, DispatchObserver &observer,
                               DispatchTimer *timer) {
  const cuda::Driver &driver = device_.driver();
  MOEPLAN_TRY(device_.use());
  setInput(step, tokens);
  MOEPLAN_CUDA(driver, copyToDeviceAsync, addressOf(deviceInput_.data()), input_.data(),
               inputBytes(program.maxTokens_), stream_);
  CudaTimer clock(device_);
  std::vector<uint32_t> begin(program.numExperts_ + 1);
  for (const DeviceProgram::Command &command : program.commands_) {
    if (command.kind == DeviceProgram::Kind::join)
      continue;
    if (command.work) {
      MOEPLAN_CUDA(driver, streamSynchronize, stream_);
      command.work->runOneByOne(observer, timer);
      continue;
    }
    MOEPLAN_TRY(clock.begin(stream_));
    MOEPLAN_TRY(program.launch(command, stream_));
    MOEPLAN_ASSIGN(const double seconds, clock.end(stream_));
    if (timer)
      timer->took(command.dispatch, seconds);
    if (!command.dispatch)
      continue;
    // As the CPU's kernels have them: tokens, or the table and where the slots of experts begin.
    std::vector<void *> operands{input_.data() + kTokensOffset, nullptr, begin.data()};
    const auto &bindings = *command.dispatch->bindings();
    for (uint32_t i = 0; command.readsExperts && i < bindings.size(); ++i)
      if (bindings.Get(i)->kind() == fb::BindingKind::experts) {
        operands[1] = const_cast<moeplan_expert *>(table + uint64_t(bindings.Get(i)->index()) *
                                                               program.numExperts_);
        // The slots follow the table; the step comes before all.
        MOEPLAN_CUDA(driver, copyToHostAsync, begin.data(), command.operands[i + 2],
                     begin.size() * sizeof(uint32_t), stream_);
        MOEPLAN_CUDA(driver, streamSynchronize, stream_);
      }
    observer.afterDispatch(*command.dispatch, operands, step);
  }
  return fetchLogits(step, logits);
}

void DeviceStep::setInput(const moeplan_step &step, std::span<const int32_t> tokens) {
  std::memcpy(input_.data(), &step, sizeof(step));
  std::memcpy(input_.data() + kTokensOffset, tokens.data(), tokens.size_bytes());
}

Status DeviceStep::fetchLogits(const moeplan_step &step, float *logits) {
  const cuda::Driver &driver = device_.driver();
  uint32_t row = step.logits_begin;
  do {
    const uint32_t rows = std::min(step.token_count - row, kLogitsRows);
    if (rows > 0)
      MOEPLAN_CUDA(driver, copyToHostAsync, logits_.data(),
                   addressOf(deviceLogits_.data()) + logitsBytes(row, vocabSize_),
                   logitsBytes(rows, vocabSize_), stream_);
    MOEPLAN_CUDA(driver, streamSynchronize, stream_);
    if (rows > 0)
      std::memcpy(logits + uint64_t(row - step.logits_begin) * vocabSize_, logits_.data(),
                  logitsBytes(rows, vocabSize_));
    row += rows;
  } while (row < step.token_count);
  return {};
}

Result<DeviceProgram> DeviceProgram::bind(const Artifact &artifact, const fb::Program &program,
                                          CudaKernels &kernels, DeviceStep &step,
                                          const ProgramMemory &memory, const HostSide &host) {
  ProgramMemory onDevice = memory;
  onDevice.tokens = reinterpret_cast<int32_t *>(step.deviceInput_.data() + kTokensOffset);
  const Source source{artifact, program, kernels, step, onDevice, host};
  DeviceProgram bound;
  bound.device_ = &step.device_;
  bound.maxTokens_ = program.max_tokens();
  bound.numExperts_ = artifact.model().num_experts();
  const auto make = [&]() -> Status {
    MOEPLAN_TRY(bound.resolve(source));
    return bound.capture(step);
  };
  MOEPLAN_TRY(make().withContext("program '" + program.name()->str() + "'"));
  return bound;
}

cuda::Pointer DeviceProgram::operandOf(const Source &source, const fb::Binding &binding) {
  const DeviceStep &step = source.step;
  const std::byte *base = binding.kind() == fb::BindingKind::logits ? step.deviceLogits_.data()
                          : binding.kind() == fb::BindingKind::candidates
                              ? step.deviceCandidates_.data()
                              : source.memory.baseOf(source.artifact, binding);
  return addressOf(base) + binding.offset();
}

Result<DeviceProgram::Command> DeviceProgram::resolveDispatch(const Source &source,
                                                              const fb::Dispatch &dispatch) const {
  Command command;
  MOEPLAN_ASSIGN(command.function, source.kernels.function(dispatch.kernel()));
  command.operands.push_back(addressOf(source.step.deviceInput_.data()));
  for (const fb::Binding *binding : *dispatch.bindings())
    command.operands.push_back(operandOf(source, *binding));
  const CudaLaunch launch =
      cudaLaunchOf(*source.artifact.metadata().kernels()->Get(dispatch.kernel()));
  command.tiles = dispatch.tiles();
  command.rows = dispatch.per_token() ? maxTokens_ : 1;
  command.threads = launch.threads;
  command.sharedBytes = launch.sharedBytes;
  command.dispatch = &dispatch;
  command.readsExperts = readsExperts(source.artifact, dispatch);
  return command;
}

Status DeviceProgram::resolve(const Source &source) {
  const fb::Program &program = source.program;
  const auto &kernels = *source.artifact.metadata().kernels();
  const auto kindOf = [&](uint32_t i) { return program.commands_type()->GetEnum<fb::Command>(i); };
  const auto isForHost = [&](uint32_t i) {
    return kindOf(i) == fb::Command::Dispatch &&
           kernels.Get(program.commands()->GetAs<fb::Dispatch>(i)->kernel())->machine() ==
               fb::Machine::cpu;
  };
  for (uint32_t i = 0; i < program.commands()->size(); ++i) {
    Command command;
    switch (kindOf(i)) {
    case fb::Command::Dispatch:
      if (isForHost(i)) {
        uint32_t end = i + 1;
        while (end < program.commands()->size() &&
               (isForHost(end) || kindOf(end) == fb::Command::Barrier))
          ++end;
        command.kind = Kind::hostWork;
        MOEPLAN_ASSIGN(command.work, HostWork::bind(source.artifact, program, {i, end}, source.host,
                                                    reinterpret_cast<const moeplan_step *>(
                                                        source.step.input_.data())));
        i = end - 1;
      } else {
        MOEPLAN_ASSIGN(command,
                       resolveDispatch(source, *program.commands()->GetAs<fb::Dispatch>(i)));
      }
      break;
    case fb::Command::Copy: {
      const auto *copy = program.commands()->GetAs<fb::Copy>(i);
      command.kind = Kind::copy;
      command.operands = {operandOf(source, *copy->target()), operandOf(source, *copy->source())};
      command.copyBytes = copy->source()->bytes();
      break;
    }
    case fb::Command::Join:
      command.kind = Kind::join;
      break;
    default: // a barrier: commands of a stream run in their order
      continue;
    }
    commands_.push_back(std::move(command));
  }
  return {};
}

Status DeviceProgram::launch(const Command &command, cuda::Stream stream) const {
  const cuda::Driver &driver = device_->driver();
  if (command.kind == Kind::copy)
    return driver.check(driver.copyOnDeviceAsync(command.operands[0], command.operands[1],
                                                 command.copyBytes, stream),
                        "copyOnDeviceAsync");
  std::vector<void *> parameters;
  for (const cuda::Pointer &operand : command.operands)
    parameters.push_back(const_cast<cuda::Pointer *>(&operand));
  return driver.check(driver.launchKernel(command.function, command.tiles, command.rows, 1,
                                          command.threads, 1, 1, command.sharedBytes, stream,
                                          parameters.data(), nullptr),
                      "launchKernel");
}

/// Streams that are recorded: of the device's commands, and of the host's work beside them. Not the
/// session's, which runs another plan meanwhile.
class DeviceProgram::Capture {
public:
  explicit Capture(const CudaDevice &device) : driver_(device.driver()) {}
  ~Capture() {
    for (const cuda::Event event : {forked_, done_})
      if (event)
        driver_.eventDestroy(event);
    for (const cuda::Stream stream : {host_, stream_})
      if (stream)
        driver_.streamDestroy(stream);
  }
  Capture(const Capture &) = delete;
  Capture &operator=(const Capture &) = delete;

  cuda::Stream stream() const { return stream_; }
  Status create(bool withHost) {
    MOEPLAN_CUDA(driver_, streamCreate, &stream_, cuda::kStreamNonBlocking);
    if (!withHost)
      return {};
    MOEPLAN_CUDA(driver_, streamCreate, &host_, cuda::kStreamNonBlocking);
    MOEPLAN_CUDA(driver_, eventCreate, &forked_, cuda::kEventDisableTiming);
    MOEPLAN_CUDA(driver_, eventCreate, &done_, cuda::kEventDisableTiming);
    return {};
  }
  Status fork(HostWork &work) {
    MOEPLAN_CUDA(driver_, eventRecord, forked_, stream_);
    MOEPLAN_CUDA(driver_, streamWaitEvent, host_, forked_, 0);
    MOEPLAN_CUDA(
        driver_, launchHostFunction, host_,
        [](void *argument) { static_cast<HostWork *>(argument)->run(); }, &work);
    MOEPLAN_CUDA(driver_, eventRecord, done_, host_);
    hasForked_ = true;
    return {};
  }
  Status join() {
    if (std::exchange(hasForked_, false))
      MOEPLAN_CUDA(driver_, streamWaitEvent, stream_, done_, 0);
    return {};
  }

private:
  const cuda::Driver &driver_;
  cuda::Stream stream_ = nullptr, host_ = nullptr;
  cuda::Event forked_ = nullptr, done_ = nullptr;
  bool hasForked_ = false;
};

Status DeviceProgram::capture(DeviceStep &step) {
  const cuda::Driver &driver = device_->driver();
  MOEPLAN_TRY(device_->use());
  Capture capture(*device_);
  MOEPLAN_TRY(capture.create(std::any_of(commands_.begin(), commands_.end(), [](const Command &c) {
    return c.kind == Kind::hostWork;
  })));
  const cuda::Stream stream = capture.stream();
  const auto record = [&]() -> Status {
    MOEPLAN_CUDA(driver, copyToDeviceAsync, addressOf(step.deviceInput_.data()), step.input_.data(),
                 inputBytes(maxTokens_), stream);
    for (const Command &command : commands_)
      MOEPLAN_TRY(command.kind == Kind::hostWork ? capture.fork(*command.work)
                  : command.kind == Kind::join   ? capture.join()
                                                 : launch(command, stream));
    return capture.join();
  };
  cuda::Graph graph = nullptr;
  Status status = driver.check(driver.streamBeginCapture(stream, cuda::kCaptureThreadLocal),
                               "streamBeginCapture");
  if (status.ok()) {
    status = record();
    Status ended = driver.check(driver.streamEndCapture(stream, &graph), "streamEndCapture");
    if (status.ok())
      status = std::move(ended);
  }
  if (status.ok())
    status = driver.check(driver.graphInstantiate(&graph_, graph, 0), "graphInstantiate");
  if (graph)
    driver.graphDestroy(graph);
  return status;
}

DeviceProgram::~DeviceProgram() {
  if (graph_ && device_->use().ok())
    device_->driver().graphExecDestroy(graph_);
}

DeviceProgram::DeviceProgram(DeviceProgram &&other) noexcept
    : device_(other.device_), commands_(std::move(other.commands_)), numExperts_(other.numExperts_),
      graph_(std::exchange(other.graph_, nullptr)), maxTokens_(other.maxTokens_) {}

DeviceProgram &DeviceProgram::operator=(DeviceProgram &&other) noexcept {
  std::swap(device_, other.device_);
  std::swap(commands_, other.commands_);
  std::swap(numExperts_, other.numExperts_);
  std::swap(graph_, other.graph_);
  std::swap(maxTokens_, other.maxTokens_);
  return *this;
}

} // namespace moeplan
