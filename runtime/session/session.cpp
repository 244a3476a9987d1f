#include "runtime/session/session.h"

#include "formats.h"
#include "kv_formats.h"
#include "runtime/device/affinity.h"
#include "runtime/device/cpu_features.h"
#include "runtime/executor/work.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace moeplan {

namespace {

std::vector<std::string> featuresOf(const fb::KernelLibrary &library) {
  std::vector<std::string> features;
  for (const flatbuffers::String *feature : *library.features())
    features.push_back(feature->str());
  return features;
}

constexpr const char *kTriplePrefix =
#if defined(__x86_64__)
    "x86_64";
#elif defined(__aarch64__)
    "aarch64";
#else
    "unknown";
#endif

/// The library that uses most of what this CPU has; the earliest of equals.
Result<const fb::KernelLibrary *> chooseLibrary(const fb::Artifact &metadata) {
  const fb::KernelLibrary *best = nullptr;
  std::string reasons;
  for (const fb::KernelLibrary *library : *metadata.libraries()) {
    std::vector<std::string> missing = missingCpuFeatures(featuresOf(*library));
    if (library->triple()->string_view().substr(0, strlen(kTriplePrefix)) != kTriplePrefix)
      missing = {"architecture of " + library->triple()->str()};
    if (missing.empty()) {
      if (!best || library->features()->size() > best->features()->size())
        best = library;
      continue;
    }
    reasons +=
        (reasons.empty() ? "" : "; ") + library->target_cpu()->str() + " needs " + missing[0];
    if (missing.size() > 1)
      reasons += " and " + std::to_string(missing.size() - 1) + " more";
  }
  if (!best)
    return unsupported("no kernels for this CPU: " + reasons);
  return best;
}

} // namespace

Result<std::unique_ptr<Session>> Session::create(const Artifact &artifact,
                                                 const SessionOptions &options) {
  MOEPLAN_ASSIGN(const fb::Plan *plan, artifact.plan(options.plan));
  const uint32_t maxContext = artifact.model().max_position_embeddings();
  const uint32_t context =
      options.contextLength ? options.contextLength : std::min(maxContext, kDefaultContext);
  if (context > maxContext)
    return invalidArgument("context length " + std::to_string(context) +
                           " exceeds the model's max_position_embeddings " +
                           std::to_string(maxContext));
  for (const fb::Expert *expert : *plan->experts())
    if (expert->residency() != fb::Residency::host)
      return unsupported("plan '" + plan->name()->str() +
                         "' keeps experts in device memory; the cpu device has none");
  constexpr uint32_t kMaxThreads = 1024;
  if (options.threads > kMaxThreads)
    return invalidArgument("more than " + std::to_string(kMaxThreads) + " threads");
  const uint32_t threads = options.threads ? options.threads : availablePhysicalCores();

  MOEPLAN_TRY(artifact.prepareWeights(threads));
  std::unique_ptr<Session> session(new Session(artifact, *plan, context, threads));
  if (options.pinThreads)
    MOEPLAN_TRY(session->pool_.pinThreads());
  std::vector<moeplan_kernel_fn> kernels;
  MOEPLAN_TRY(session->loadKernels(kernels));
  session->fillExpertTable();
  MOEPLAN_TRY(session->allocate());
  MOEPLAN_TRY(session->bindPrograms(kernels));
  return session;
}

Status Session::loadKernels(std::vector<moeplan_kernel_fn> &kernels) {
  const fb::Artifact &metadata = artifact_.metadata();
  MOEPLAN_ASSIGN(const fb::KernelLibrary *library, chooseLibrary(metadata));
  targetCpu_ = library->target_cpu()->str();
  MOEPLAN_ASSIGN(const std::vector<std::byte> elf, artifact_.load(library->segment()));
  MOEPLAN_ASSIGN(kernels_, KernelModule::load(elf));
  kernels.reserve(metadata.kernels()->size());
  for (const fb::Kernel *kernel : *metadata.kernels()) {
    MOEPLAN_ASSIGN(moeplan_kernel_fn function, kernels_->kernel(kernel->symbol()->str()));
    kernels.push_back(function);
  }
  return {};
}

void Session::fillExpertTable() {
  auto linear = [&](uint32_t segment, const void *&pointer, uint16_t &format) {
    pointer = artifact_.weight(segment).data();
    format = static_cast<uint16_t>(artifact_.metadata().segments()->Get(segment)->format());
  };
  experts_.reserve(plan_.experts()->size());
  for (const fb::Expert *expert : *plan_.experts()) {
    moeplan_expert row{};
    linear(expert->w1(), row.w1, row.w1_format);
    linear(expert->w3(), row.w3, row.w3_format);
    linear(expert->w2(), row.w2, row.w2_format);
    experts_.push_back(row);
  }
}

Status Session::replaceExpertWeight(uint32_t layer, uint32_t expert, Linear linear,
                                    const void *data, fb::Format format) {
  const fb::Model &model = artifact_.model();
  if (layer >= model.num_layers() || expert >= model.num_experts())
    return invalidArgument("there is no expert " + std::to_string(expert) + " in a layer " +
                           std::to_string(layer));
  if (!hasKernelsFor(artifact_.metadata(), plan_, layer, linear, format))
    return unsupported("plan '" + plan_.name()->str() + "' has no kernel for format " +
                       std::to_string(static_cast<unsigned>(format)) + " in layer " +
                       std::to_string(layer));
  moeplan_expert &row = experts_[layer * model.num_experts() + expert];
  const void *moeplan_expert::*const pointers[] = {&moeplan_expert::w1, &moeplan_expert::w3,
                                                   &moeplan_expert::w2};
  uint16_t moeplan_expert::*const formats[] = {
      &moeplan_expert::w1_format, &moeplan_expert::w3_format, &moeplan_expert::w2_format};
  row.*pointers[static_cast<int>(linear)] = data;
  row.*formats[static_cast<int>(linear)] = static_cast<uint16_t>(format);
  return {};
}

Status Session::allocate() {
  const fb::Model &model = artifact_.model();
  uint64_t kvBytes = 0;
  const auto layerBytes =
      moeplan::kvLayerBytes(static_cast<moeplan_kv_format>(model.kv_cache_format()), contextLength_,
                            model.num_key_value_heads(), model.head_dim());
  if (!layerBytes || __builtin_mul_overflow(*layerBytes, uint64_t(model.num_layers()), &kvBytes))
    return exhausted("the KV cache exceeds the address space");
  kvLayerBytes_ = *layerBytes;
  MOEPLAN_ASSIGN(keys_, HostMemory::allocate(kvBytes, "KV cache"));
  MOEPLAN_ASSIGN(values_, HostMemory::allocate(kvBytes, "KV cache"));

  uint64_t arenaBytes = 0;
  for (const fb::Program *program : *plan_.programs())
    arenaBytes = std::max(arenaBytes, program->arena_bytes());
  MOEPLAN_ASSIGN(arena_, HostMemory::allocate(arenaBytes, "arena"));
  const uint32_t programs = plan_.programs()->size();
  tokens_.resize(plan_.programs()->Get(programs - 1)->max_tokens());
  return {};
}

Status Session::bindPrograms(const std::vector<moeplan_kernel_fn> &kernels) {
  const ProgramMemory memory{arena_.data(), keys_.data(),    values_.data(),
                             kvLayerBytes_, experts_.data(), tokens_.data()};
  for (const fb::Program *program : *plan_.programs()) {
    MOEPLAN_ASSIGN(BoundProgram bound, BoundProgram::bind(artifact_, *program, kernels, memory));
    programs_.push_back(std::move(bound));
  }
  return {};
}

/// The smallest program that takes `tokens` at once, else the largest.
BoundProgram &Session::programFor(size_t tokens) {
  for (BoundProgram &program : programs_)
    if (program.maxTokens() >= tokens)
      return program;
  return programs_.back();
}

template <typename Run>
Status Session::appendWith(std::span<const int32_t> tokens, size_t logitsCount, Run &&run) {
  if (tokens.empty() || logitsCount > tokens.size())
    return invalidArgument("append needs at least one token and no more logits than tokens");
  const auto vocabSize = static_cast<int32_t>(artifact_.model().vocab_size());
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
  for (size_t done = 0; done < tokens.size();) {
    BoundProgram &program = programFor(tokens.size() - done);
    const size_t count = std::min<size_t>(program.maxTokens(), tokens.size() - done);
    std::copy_n(tokens.data() + done, count, tokens_.data());
    const size_t skipped = std::clamp(firstWithLogits, done, done + count) - done;
    const moeplan_step step{static_cast<uint32_t>(count), static_cast<uint32_t>(skipped), position_,
                            kvCapacity(contextLength_)};
    const size_t row = done + skipped - std::min(firstWithLogits, done + skipped);
    run(program, step, logits_.data() + row * vocabSize);
    position_ += static_cast<uint32_t>(count);
    done += count;
  }
  return {};
}

Status Session::append(std::span<const int32_t> tokens, size_t logitsCount) {
  return appendWith(tokens, logitsCount,
                    [&](BoundProgram &program, const moeplan_step &step, float *logits) {
                      program.run(pool_, step, logits, observer_);
                    });
}

Result<moeplan_work> Session::appendCounted(std::span<const int32_t> tokens, size_t logitsCount) {
  WorkCounter counter(artifact_.metadata());
  MOEPLAN_TRY(appendWith(tokens, logitsCount,
                         [&](BoundProgram &program, const moeplan_step &step, float *logits) {
                           program.run(pool_, step, logits, &counter);
                         }));
  return counter.work();
}

Result<std::vector<KernelTime>> Session::measureKernels(std::span<const int32_t> tokens,
                                                        size_t logitsCount, uint32_t repetitions) {
  if (repetitions == 0)
    return invalidArgument("measuring kernels needs a repetition");
  KernelTimer timer(artifact_.metadata(), repetitions);
  MOEPLAN_TRY(appendWith(tokens, logitsCount,
                         [&](BoundProgram &program, const moeplan_step &step, float *logits) {
                           for (uint32_t repetition = 0; repetition <= repetitions; ++repetition) {
                             timer.beginRepetition(repetition);
                             program.runOneByOne(pool_, step, logits, timer);
                           }
                         }));
  return timer.times();
}

const float *Session::logits(size_t index) const {
  if (index >= logitsCount_)
    return nullptr;
  return logits_.data() + index * artifact_.model().vocab_size();
}

uint64_t Session::weightBytesPerToken() const {
  return plan_.programs()->Get(0)->weight_bytes_per_token();
}

} // namespace moeplan
