#include "runtime/session/session.h"

#include "formats.h"
#include "kv_formats.h"
#include "runtime/artifact/programs.h"
#include "runtime/device/affinity.h"
#include "runtime/executor/work.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>

namespace moeplan {

namespace {

uint32_t contextOf(const Artifact &artifact, const SessionOptions &options) {
  return options.contextLength
             ? options.contextLength
             : std::min(artifact.model().max_position_embeddings(), Session::kDefaultContext);
}

/// Bytes of the keys, or the values, of a layer; nothing where they exceed 64 bits.
std::optional<uint64_t> layerCacheBytes(const fb::Model &model, uint32_t context) {
  return kvLayerBytes(static_cast<moeplan_kv_format>(model.kv_cache_format()), context,
                      model.num_key_value_heads(), model.head_dim());
}

/// The smallest program that takes `tokens` at once, else the largest.
template <typename Program> Program &programFor(std::span<Program> programs, size_t tokens) {
  for (Program &program : programs)
    if (program.maxTokens() >= tokens)
      return program;
  return programs.back();
}

/// Of any program of the artifact for a cuda device, or for CPUs.
uint32_t mostTokensOf(const Artifact &artifact, bool onCuda) {
  uint32_t most = 0;
  for (const fb::Plan *plan : *artifact.metadata().plans())
    if (const auto *programs = programsOf(*plan, onCuda))
      for (const fb::Program *program : *programs)
        most = std::max(most, program->max_tokens());
  return most;
}

} // namespace

uint64_t Session::fixedBytes(Backend &backend, const SessionOptions &options) {
  const Artifact &artifact = backend.artifact();
  const auto layer = layerCacheBytes(artifact.model(), contextOf(artifact, options));
  uint64_t bytes = 0;
  const bool fits =
      layer && !__builtin_mul_overflow(*layer, 2 * uint64_t(artifact.model().num_layers()), &bytes);
  const uint64_t step = backend.device().cuda()
                            ? DeviceStep::bytesFor(mostTokensOf(artifact, /*onCuda=*/true),
                                                   artifact.model().vocab_size())
                            : 0;
  return fits && !__builtin_add_overflow(bytes, step, &bytes) ? bytes : Device::kNoBudget;
}

uint64_t Session::fixedBytes() const {
  return keys_.bytes() + values_.bytes() + (step_ ? step_->bytes() : 0);
}

Status Session::check(const Artifact &artifact, const SessionOptions &options, bool ownMemory) {
  MOEPLAN_ASSIGN(const fb::Plan *plan, artifact.plan(options.plan));
  const uint32_t maxContext = artifact.model().max_position_embeddings();
  if (options.contextLength > maxContext)
    return invalidArgument("context length " + std::to_string(options.contextLength) +
                           " exceeds the model's max_position_embeddings " +
                           std::to_string(maxContext));
  constexpr uint32_t kMaxThreads = 1024;
  if (options.threads > kMaxThreads)
    return invalidArgument("more than " + std::to_string(kMaxThreads) + " threads");
  if (usesDevice(*plan) && !ownMemory && !options.onHost)
    return unsupported("plan '" + plan->name()->str() +
                       "' keeps experts in device memory; the cpu device has none");
  return {};
}

Result<std::unique_ptr<Session>> Session::create(const Artifact &artifact,
                                                 const SessionOptions &options) {
  MOEPLAN_TRY(check(artifact, options, false));
  MOEPLAN_ASSIGN(std::shared_ptr<Backend> backend, Backend::create(artifact, "cpu"));
  return create(std::move(backend), options);
}

Result<std::unique_ptr<Session>> Session::create(std::shared_ptr<Backend> backend,
                                                 const SessionOptions &options) {
  const Artifact &artifact = backend->artifact();
  MOEPLAN_TRY(check(artifact, options, backend->device().hasOwnMemory()));
  MOEPLAN_ASSIGN(const fb::Plan *plan, artifact.plan(options.plan));
  const uint32_t context = contextOf(artifact, options);
  const uint32_t threads = options.threads ? options.threads : availablePhysicalCores();

  std::unique_ptr<Session> session(new Session(std::move(backend), context, threads));
  if (options.pinThreads)
    MOEPLAN_TRY(session->pool_.pinThreads());
  const Sourcing sourcing = options.onHost ? Sourcing::host : Sourcing::resident;
  MOEPLAN_TRY(session->allocate(sourcing));
  MOEPLAN_ASSIGN(
      std::unique_ptr<LoadedPlan> loaded,
      LoadedPlan::load(*session->backend_, *plan, session->memory(), sourcing, {.onDemand = true}));
  session->use(std::move(loaded));
  return session;
}

Result<std::unique_ptr<Session>> Session::createBeside(Session &session, uint32_t contextLength) {
  std::unique_ptr<Session> beside(new Session(session.backend_, contextLength, 1));
  // A cuda device computes nothing in the host's memory.
  const Sourcing sourcing = session.onCuda() ? Sourcing::resident : Sourcing::present;
  MOEPLAN_TRY(beside->allocate(sourcing));
  MOEPLAN_ASSIGN(
      std::unique_ptr<LoadedPlan> loaded,
      LoadedPlan::load(*beside->backend_, session.plan(), beside->memory(), sourcing, {}));
  beside->use(std::move(loaded));
  return beside;
}

Status Session::allocate(Sourcing sourcing) {
  const fb::Model &model = artifact().model();
  uint64_t kvBytes = 0;
  const auto layerBytes = layerCacheBytes(model, contextLength_);
  if (!layerBytes || __builtin_mul_overflow(*layerBytes, uint64_t(model.num_layers()), &kvBytes))
    return exhausted("the KV cache exceeds the address space");
  kvLayerBytes_ = *layerBytes;
  if (sourcing == Sourcing::resident) {
    MOEPLAN_ASSIGN(keys_, backend_->device().allocate(kvBytes, "KV cache"));
    MOEPLAN_ASSIGN(values_, backend_->device().allocate(kvBytes, "KV cache"));
  } else {
    MOEPLAN_ASSIGN(hostKeys_, HostMemory::allocate(kvBytes, "KV cache"));
    MOEPLAN_ASSIGN(hostValues_, HostMemory::allocate(kvBytes, "KV cache"));
  }
  CudaDevice *cuda = sourcing == Sourcing::host ? nullptr : backend_->device().cuda();
  const uint32_t mostTokens = mostTokensOf(artifact(), cuda);
  tokens_.resize(mostTokens);
  if (cuda) {
    MOEPLAN_ASSIGN(step_, DeviceStep::create(*cuda, mostTokens, model.vocab_size()));
  }
  return {};
}

SessionMemory Session::memory() {
  return {keys_.data() ? keys_.data() : hostKeys_.data(),
          values_.data() ? values_.data() : hostValues_.data(),
          kvLayerBytes_,
          tokens_.data(),
          step_.get(),
          &pool_};
}

void Session::use(std::unique_ptr<LoadedPlan> plan) {
  active_ = std::move(plan);
  plan_ = &active_->plan();
}

Result<std::unique_ptr<LoadedPlan>> Session::load(const fb::Plan &plan, const Staging &staging,
                                                  const std::set<uint32_t> &deferred) {
  return LoadedPlan::load(*backend_, plan, memory(), Sourcing::resident, staging, deferred);
}

std::unique_ptr<LoadedPlan> Session::flip(std::unique_ptr<LoadedPlan> next) {
  std::unique_ptr<LoadedPlan> previous = std::move(active_);
  use(std::move(next));
  return previous;
}

Status Session::replaceExpertWeight(uint32_t layer, uint32_t expert, Linear linear,
                                    const void *data, fb::Format format) {
  const fb::Model &model = artifact().model();
  if (layer >= model.num_layers() || expert >= model.num_experts())
    return invalidArgument("there is no expert " + std::to_string(expert) + " in a layer " +
                           std::to_string(layer));
  if (!hasKernelsFor(artifact().metadata(), plan(), layer, linear, format))
    return unsupported("plan '" + std::string(planName()) + "' has no kernel for format " +
                       std::to_string(static_cast<unsigned>(format)) + " in layer " +
                       std::to_string(layer));
  moeplan_expert &row = active_->table()[layer * model.num_experts() + expert];
  const void *moeplan_expert::*const pointers[] = {&moeplan_expert::w1, &moeplan_expert::w3,
                                                   &moeplan_expert::w2};
  uint16_t moeplan_expert::*const formats[] = {
      &moeplan_expert::w1_format, &moeplan_expert::w3_format, &moeplan_expert::w2_format};
  row.*pointers[static_cast<int>(linear)] = data;
  row.*formats[static_cast<int>(linear)] = static_cast<uint16_t>(format);
  return {};
}

template <typename OnDevice, typename Run>
Status Session::appendWith(std::span<const int32_t> tokens, size_t logitsCount, OnDevice &&onDevice,
                           Run &&run) {
  if (tokens.empty() || logitsCount > tokens.size())
    return invalidArgument("append needs at least one token and no more logits than tokens");
  const auto vocabSize = static_cast<int32_t>(artifact().model().vocab_size());
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= vocabSize)
      return invalidArgument("token " + std::to_string(i) + " has id " + std::to_string(tokens[i]) +
                             ", the vocabulary has " + std::to_string(vocabSize));
  if (tokens.size() > contextLength_ - position_)
    return exhausted("the KV cache holds " + std::to_string(contextLength_) + " positions, " +
                     std::to_string(position_) + " are taken, " + std::to_string(tokens.size()) +
                     " more do not fit");
  if (logits_.size() < logitsCount * vocabSize) {
    try {
      logits_.resize(logitsCount * vocabSize);
    } catch (const std::bad_alloc &) {
      return exhausted("no memory for the logits of " + std::to_string(logitsCount) + " positions");
    }
  }
  logitsCount_ = logitsCount;

  const size_t firstWithLogits = tokens.size() - logitsCount;
  std::optional<Boundary::Step> inStep(std::in_place, boundary_);
  const std::span<BoundProgram> programs(active_->programs());
  const std::span<const DeviceProgram> devicePrograms(active_->devicePrograms());
  for (size_t done = 0; done < tokens.size();) {
    const size_t left = tokens.size() - done;
    const size_t most = onCuda() ? programFor(devicePrograms, left).maxTokens()
                                 : programFor(programs, left).maxTokens();
    const size_t count = std::min(most, left);
    std::copy_n(tokens.data() + done, count, tokens_.data());
    const size_t skipped = std::clamp(firstWithLogits, done, done + count) - done;
    const moeplan_step step{static_cast<uint32_t>(count), static_cast<uint32_t>(skipped), position_,
                            kvCapacity(contextLength_)};
    const size_t row = done + skipped - std::min(firstWithLogits, done + skipped);
    float *const rows = logits_.data() + row * vocabSize;
    active_->beginRun();
    Status status;
    if (onCuda())
      status = onDevice(programFor(devicePrograms, count), step, rows);
    else
      run(programFor(programs, count), step, rows);
    active_->endRun();
    MOEPLAN_TRY(std::move(status));
    position_ += static_cast<uint32_t>(count);
    done += count;
  }
  inStep.reset();
  if (listener_)
    listener_->stepped(*this, tokens.size());
  return {};
}

Status Session::append(std::span<const int32_t> tokens, size_t logitsCount) {
  const auto onDevice = [&](const DeviceProgram &program, const moeplan_step &step, float *logits) {
    return step_->run(program, step, std::span(tokens_).first(step.token_count), logits);
  };
  return appendWith(tokens, logitsCount, onDevice,
                    [&](BoundProgram &program, const moeplan_step &step, float *logits) {
                      program.run(pool_, step, logits, observer_, active_->source());
                    });
}

Result<int32_t> Session::appendSampled(std::span<const int32_t> tokens, Sampler &sampler) {
  if (!onCuda() || !sampler.samplesFrom(MOEPLAN_CANDIDATES)) {
    MOEPLAN_TRY(append(tokens, 1));
    const int32_t token = sampler.sample(logits(0));
    logitsCount_ = 0;
    return token;
  }
  int32_t token = 0;
  const auto onDevice = [&](const DeviceProgram &program, const moeplan_step &step,
                            float *logits) -> Status {
    const auto given = std::span(tokens_).first(step.token_count);
    if (step.logits_begin == step.token_count) // of a prompt, and not its end
      return step_->run(program, step, given, logits);
    MOEPLAN_ASSIGN(const auto candidates, step_->runForCandidates(program, step, given));
    token = sampler.sample(candidates);
    return {};
  };
  MOEPLAN_TRY(
      appendWith(tokens, 1, onDevice, [](BoundProgram &, const moeplan_step &, float *) {}));
  logitsCount_ = 0;
  return token;
}

Result<moeplan_work> Session::appendCounted(std::span<const int32_t> tokens, size_t logitsCount) {
  WorkCounter counter(artifact().metadata());
  const auto onDevice = [&](const DeviceProgram &program, const moeplan_step &step, float *logits) {
    return step_->runOneByOne(program, step, std::span(tokens_).first(step.token_count), logits,
                              active_->table().data(), counter, nullptr);
  };
  MOEPLAN_TRY(appendWith(tokens, logitsCount, onDevice,
                         [&](BoundProgram &program, const moeplan_step &step, float *logits) {
                           program.run(pool_, step, logits, &counter, active_->source());
                         }));
  return counter.work();
}

Result<std::vector<KernelTime>> Session::measureKernels(std::span<const int32_t> tokens,
                                                        size_t logitsCount, uint32_t repetitions) {
  if (repetitions == 0)
    return invalidArgument("measuring kernels needs a repetition");
  KernelTimer timer(artifact().metadata(), repetitions);
  const auto onDevice = [&](const DeviceProgram &program, const moeplan_step &step,
                            float *logits) -> Status {
    for (uint32_t repetition = 0; repetition <= repetitions; ++repetition) {
      timer.beginRepetition(repetition);
      MOEPLAN_TRY(step_->runOneByOne(program, step, std::span(tokens_).first(step.token_count),
                                     logits, active_->table().data(), timer, &timer));
    }
    return {};
  };
  MOEPLAN_TRY(appendWith(tokens, logitsCount, onDevice,
                         [&](BoundProgram &program, const moeplan_step &step, float *logits) {
                           for (uint32_t repetition = 0; repetition <= repetitions; ++repetition) {
                             timer.beginRepetition(repetition);
                             program.runOneByOne(pool_, step, logits, timer, active_->source());
                           }
                         }));
  return timer.times();
}

const float *Session::logits(size_t index) const {
  if (index >= logitsCount_)
    return nullptr;
  return logits_.data() + index * artifact().model().vocab_size();
}

uint64_t Session::weightBytesPerToken() const {
  return plan().programs()->Get(0)->weight_bytes_per_token();
}

} // namespace moeplan
