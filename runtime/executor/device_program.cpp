#include "runtime/executor/device_program.h"

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

uint64_t inputBytes(uint32_t maxTokens) { return kTokensOffset + maxTokens * sizeof(int32_t); }
uint64_t logitsBytes(uint64_t rows, uint32_t vocabSize) { return rows * vocabSize * sizeof(float); }

/// The address of every operand of a program.
class Operands {
public:
  Operands(const Artifact &artifact, const ProgramMemory &memory, std::byte *tokens,
           std::byte *logits)
      : artifact_(artifact), memory_(memory), tokens_(tokens), logits_(logits) {}

  cuda::Pointer operator()(const fb::Binding &binding) const {
    return addressOf(base(binding)) + binding.offset();
  }

private:
  const std::byte *base(const fb::Binding &binding) const {
    const auto layer = static_cast<uint64_t>(binding.index());
    switch (binding.kind()) {
    case fb::BindingKind::arena:
      return memory_.arena;
    case fb::BindingKind::segment:
      return memory_.weight(binding.index());
    case fb::BindingKind::keys:
      return memory_.keys + layer * memory_.kvLayerBytes;
    case fb::BindingKind::values:
      return memory_.values + layer * memory_.kvLayerBytes;
    case fb::BindingKind::experts:
      return reinterpret_cast<const std::byte *>(memory_.experts +
                                                 layer * artifact_.model().num_experts());
    case fb::BindingKind::tokens:
      return tokens_;
    case fb::BindingKind::logits:
      return logits_;
    }
    return nullptr;
  }

  const Artifact &artifact_;
  const ProgramMemory &memory_;
  std::byte *tokens_, *logits_;
};

} // namespace

uint64_t DeviceStep::bytes(uint32_t maxTokens, uint32_t vocabSize) {
  return inputBytes(maxTokens) + logitsBytes(maxTokens, vocabSize);
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
  return step;
}

DeviceStep::~DeviceStep() {
  if (stream_ && device_.use().ok())
    device_.driver().streamDestroy(stream_);
}

Status DeviceStep::run(const DeviceProgram &program, const moeplan_step &step,
                       std::span<const int32_t> tokens, float *logits) {
  const cuda::Driver &driver = device_.driver();
  MOEPLAN_TRY(device_.use());
  std::memcpy(input_.data(), &step, sizeof(step));
  std::memcpy(input_.data() + kTokensOffset, tokens.data(), tokens.size_bytes());
  MOEPLAN_CUDA(driver, graphLaunch, program.graph_, stream_);
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
                                          const ProgramMemory &memory) {
  DeviceProgram bound;
  bound.device_ = &step.device_;
  bound.maxTokens_ = program.max_tokens();
  MOEPLAN_TRY(bound.capture(artifact, program, kernels, step, memory)
                  .withContext("program '" + program.name()->str() + "'"));
  return bound;
}

Status DeviceProgram::capture(const Artifact &artifact, const fb::Program &program,
                              CudaKernels &kernels, DeviceStep &step, const ProgramMemory &memory) {
  const cuda::Driver &driver = device_->driver();
  std::byte *input = step.deviceInput_.data();
  const Operands operandOf(artifact, memory, input + kTokensOffset, step.deviceLogits_.data());
  // Not the session's, which runs another plan meanwhile.
  cuda::Stream stream = nullptr;

  // Loaded before: loading is not allowed while a stream is captured.
  std::vector<cuda::Function> functions(program.commands()->size());
  for (uint32_t i = 0; i < functions.size(); ++i)
    if (program.commands_type()->GetEnum<fb::Command>(i) == fb::Command::Dispatch) {
      const auto *dispatch = program.commands()->GetAs<fb::Dispatch>(i);
      MOEPLAN_ASSIGN(functions[i], kernels.function(dispatch->kernel()));
    }
  auto record = [&]() -> Status {
    MOEPLAN_CUDA(driver, copyToDeviceAsync, addressOf(input), step.input_.data(),
                 inputBytes(maxTokens_), stream);
    for (uint32_t i = 0; i < functions.size(); ++i) {
      switch (program.commands_type()->GetEnum<fb::Command>(i)) {
      case fb::Command::Dispatch: {
        const auto *dispatch = program.commands()->GetAs<fb::Dispatch>(i);
        std::vector<cuda::Pointer> operands{addressOf(input)};
        for (const fb::Binding *binding : *dispatch->bindings())
          operands.push_back(operandOf(*binding));
        std::vector<void *> parameters;
        for (cuda::Pointer &operand : operands)
          parameters.push_back(&operand);
        const CudaLaunch launch =
            cudaLaunchOf(*artifact.metadata().kernels()->Get(dispatch->kernel()));
        MOEPLAN_CUDA(driver, launchKernel, functions[i], dispatch->tiles(),
                     dispatch->per_token() ? maxTokens_ : 1, 1, launch.threads, 1, 1,
                     launch.sharedBytes, stream, parameters.data(), nullptr);
        break;
      }
      case fb::Command::Copy: {
        const auto *copy = program.commands()->GetAs<fb::Copy>(i);
        MOEPLAN_CUDA(driver, copyOnDeviceAsync, operandOf(*copy->target()),
                     operandOf(*copy->source()), copy->source()->bytes(), stream);
        break;
      }
      default: // a barrier: commands of a stream run in their order
        break;
      }
    }
    return {};
  };

  MOEPLAN_TRY(device_->use());
  MOEPLAN_CUDA(driver, streamCreate, &stream, cuda::kStreamNonBlocking);
  cuda::Graph graph = nullptr;
  Status status = driver.check(driver.streamBeginCapture(stream, cuda::kCaptureThreadLocal),
                               "streamBeginCapture");
  if (status.ok()) {
    status = record();
    Status ended = driver.check(driver.streamEndCapture(stream, &graph), "streamEndCapture");
    if (status.ok())
      status = std::move(ended);
  }
  driver.streamDestroy(stream);
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
    : device_(other.device_), graph_(std::exchange(other.graph_, nullptr)),
      maxTokens_(other.maxTokens_) {}

DeviceProgram &DeviceProgram::operator=(DeviceProgram &&other) noexcept {
  std::swap(device_, other.device_);
  std::swap(graph_, other.graph_);
  std::swap(maxTokens_, other.maxTokens_);
  return *this;
}

} // namespace moeplan
