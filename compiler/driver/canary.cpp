#include "compiler/driver/canary.h"

#include "compiler/pack/temporary_file.h"
#include "runtime/residency/plan_weights.h"
#include "runtime/session/sampler.h"
#include "runtime/session/session.h"
#include "runtime/support/likelihood.h"
#include "runtime/text/tokenizer.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <memory>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// For checkpoints without a tokenizer.
constexpr uint64_t kSeed = 1;

Error toError(Status status) { return createStringError("canary: " + std::move(status).message()); }

Expected<std::vector<int32_t>> tokenize(const Checkpoint &checkpoint, const std::string &text) {
  auto buffer = MemoryBuffer::getFile(text);
  if (!buffer)
    return createStringError("canary: " + text + ": " + buffer.getError().message());
  const ArrayRef<uint8_t> model = checkpoint.tokenizer();
  const MixtralConfig &config = checkpoint.config();
  auto tokenizer =
      Tokenizer::create(std::as_bytes(std::span(model.data(), model.size())), config.vocabSize);
  if (!tokenizer.ok())
    return toError(std::move(tokenizer).status().withContext("tokenizer.model"));
  auto tokens =
      tokenizer.value()->encode(std::string_view((*buffer)->getBuffer()), config.bosTokenId);
  if (!tokens.ok())
    return toError(std::move(tokens).status().withContext(text));
  return std::move(tokens).value();
}

std::vector<int32_t> randomTokens(const MixtralConfig &config, size_t count) {
  std::vector<int32_t> tokens;
  if (config.bosTokenId >= 0)
    tokens.push_back(config.bosTokenId);
  RandomGenerator random(kSeed);
  while (tokens.size() < count)
    tokens.push_back(int32_t(random.next() % config.vocabSize));
  return tokens;
}

/// Whether all weights of a plan, and the KV cache, are in 16 bits or more.
bool isReference(const fb::Artifact &artifact, const fb::Plan &plan) {
  return artifact.model()->kv_cache_format() != fb::KvFormat::int8 &&
         all_of(weightsOf(plan).all(), [&](const Held &held) {
           const fb::Format format = artifact.segments()->Get(held.segment)->format();
           return format == fb::Format::bf16 || format == fb::Format::f32;
         });
}

Expected<std::unique_ptr<Artifact>> openArtifact(const std::string &path) {
  auto artifact = Artifact::open(path);
  if (!artifact.ok())
    return toError(std::move(artifact).status());
  return std::move(artifact).value();
}

Expected<std::unique_ptr<Session>> createSession(const Artifact &artifact, const fb::Plan &plan,
                                                 size_t context, unsigned threads) {
  auto session = Session::create(artifact, {.plan = plan.name()->c_str(),
                                            .contextLength = uint32_t(context),
                                            .threads = threads,
                                            .onHost = true});
  if (!session.ok())
    return toError(std::move(session).status());
  return std::move(session).value();
}

Error makeReference(const Artifact &artifact, const fb::Plan &plan, unsigned threads,
                    CanaryFacts &facts) {
  auto session = createSession(artifact, plan, facts.tokens.size(), threads);
  if (!session)
    return session.takeError();
  auto reference = makeCanaryReference(**session, facts.tokens);
  if (!reference.ok())
    return toError(std::move(reference).status());
  facts.reference = std::move(reference).value();
  return Error::success();
}

} // namespace

Expected<CanaryFacts> moeplan::compiler::readCanary(const Checkpoint &checkpoint,
                                                    const CanaryPolicy &policy,
                                                    const std::string &text) {
  const MixtralConfig &config = checkpoint.config();
  // One that is predicted by each: the last one is not run.
  const size_t most = std::min<size_t>(size_t(policy.tokens) + 1, config.maxPositionEmbeddings);
  CanaryFacts facts;
  if (checkpoint.tokenizer().empty()) {
    facts.tokens = randomTokens(config, most);
  } else {
    const std::string &path = text.empty() ? policy.text : text;
    if (path.empty())
      return createStringError("canary: no text to check plans on: give canary.text in the policy "
                               "or --canary-text");
    auto tokens = tokenize(checkpoint, path);
    if (!tokens)
      return tokens.takeError();
    facts.tokens = std::move(*tokens);
    if (facts.tokens.size() < 2)
      return createStringError("canary: " + path + ": has less than two tokens");
    facts.tokens.resize(std::min(facts.tokens.size(), most));
  }
  const size_t predicted = facts.tokens.size() - 1;
  facts.reference.top = std::min<uint32_t>(kCanaryTop, uint32_t(config.vocabSize));
  facts.reference.logLikelihoods.resize(predicted);
  facts.reference.tokens.resize(predicted * facts.reference.top);
  facts.reference.logProbabilities.resize(predicted * facts.reference.top);
  return facts;
}

Error moeplan::compiler::scoreCanary(const std::string &path, const std::string &referencePath,
                                     const CompileReference &compileReference, unsigned threads,
                                     CanaryFacts &facts) {
  auto artifact = openArtifact(path);
  if (!artifact)
    return artifact.takeError();
  const fb::Artifact &metadata = (*artifact)->metadata();
  const auto reference = find_if(
      *metadata.plans(), [&](const fb::Plan *plan) { return isReference(metadata, *plan); });
  if (reference != metadata.plans()->end()) {
    if (Error error = makeReference(**artifact, **reference, threads, facts))
      return error;
  } else {
    const TemporaryFile file(referencePath);
    if (Error error = compileReference(file.path()))
      return error;
    auto compiled = openArtifact(file.path());
    if (!compiled)
      return compiled.takeError();
    if (Error error =
            makeReference(**compiled, *(*compiled)->metadata().plans()->Get(0), threads, facts))
      return error;
  }
  const CanaryReference view = facts.reference.view();
  for (const fb::Plan *plan : *metadata.plans()) {
    auto session = createSession(**artifact, *plan, facts.tokens.size(), threads);
    if (!session)
      return session.takeError();
    auto score = moeplan::scoreCanary(**session, facts.tokens, &view, {});
    if (!score.ok())
      return toError(std::move(score).status().withContext("plan '" + plan->name()->str() + "'"));
    facts.scores[plan->name()->str()] = std::move(score).value();
    for (const fb::KernelLibrary *library : *metadata.libraries())
      if (library->target_cpu()->string_view() == (*session)->targetCpu())
        facts.library =
            uint32_t(find(*metadata.libraries(), library) - metadata.libraries()->begin());
  }
  return Error::success();
}

std::vector<std::string> moeplan::compiler::canaryWarnings(const CanaryPolicy &policy,
                                                           const CanaryFacts &facts) {
  std::vector<std::string> warnings;
  for (const auto &[plan, score] : facts.scores) {
    const double increase =
        perplexityIncrease(facts.reference.logLikelihoods, score.logLikelihoods);
    std::string found;
    if (policy.maxPerplexityIncrease && increase > *policy.maxPerplexityIncrease)
      found = formatv("{0:F2} % of perplexity over 16 bits, the limit is {1:F2} %", 100 * increase,
                      100 * *policy.maxPerplexityIncrease);
    else if (policy.maxDivergence && score.divergence > *policy.maxDivergence)
      found = formatv("{0:F4} nats per token from 16 bits, the limit is {1:F4}", score.divergence,
                      *policy.maxDivergence);
    if (!found.empty())
      warnings.push_back("canary: plan '" + plan + "' is " + found + ": a runtime will leave it");
  }
  return warnings;
}
