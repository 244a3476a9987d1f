#include "runtime/control/canary_guard.h"

#include "runtime/support/likelihood.h"

#include <chrono>
#include <cmath>
#include <cstdio>

namespace moeplan {

namespace {

/// How far two sets of kernels may be apart on the same weights: nats per token, of the means. What
/// they differ in is the order of sums; where that tips a router's decision, single tokens differ
/// by more.
constexpr double kTolerance = 0.02;

std::string percent(double fraction) {
  char text[32];
  std::snprintf(text, sizeof text, "%+.2f %%", fraction * 100);
  return text;
}

std::string nats(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", value);
  return text;
}

/// The one that the artifact's canary was computed with.
const fb::KernelLibrary &libraryOf(const fb::Artifact &artifact) {
  return *artifact.libraries()->Get(artifact.canary()->library());
}

template <typename T, typename U> std::vector<T> copyOf(const flatbuffers::Vector<U> &vector) {
  return {vector.begin(), vector.end()};
}

} // namespace

CanaryGuard::CanaryGuard(Backend &backend) : backend_(backend) {
  const fb::Canary *canary = backend.artifact().metadata().canary();
  if (!canary)
    return;
  auto optional = [](flatbuffers::Optional<double> value) {
    return value ? std::optional(*value) : std::nullopt;
  };
  limits_ = {optional(canary->max_perplexity_increase()), optional(canary->max_divergence()),
             canary->every_tokens()};
  if (!canary->token_ids())
    return;
  tokens_ = copyOf<int32_t>(*canary->token_ids());
  reference_ = {copyOf<float>(*canary->reference_log_likelihoods()), canary->reference_top(),
                copyOf<uint32_t>(*canary->reference_tokens()),
                copyOf<float>(*canary->reference_log_probabilities())};
  compiled_ = true;
  everyTokens_ = limits_.everyTokens;
}

bool CanaryGuard::enabled() const {
  const std::lock_guard lock(mutex_);
  return !tokens_.empty();
}

Status CanaryGuard::set(std::span<const int32_t> tokens, const CanaryLimits &limits,
                        const fb::Plan &reference) {
  const uint32_t most = backend_.artifact().model().max_position_embeddings();
  if (tokens.size() < 2 || tokens.size() > most)
    return invalidArgument("a canary has 2 to " + std::to_string(most) + " tokens, " +
                           std::to_string(tokens.size()) + " are given");
  SessionOptions options;
  options.plan = reference.name()->c_str();
  options.contextLength = static_cast<uint32_t>(tokens.size());
  options.onHost = true;
  MOEPLAN_ASSIGN(std::unique_ptr<Session> session,
                 Session::create(backend_.shared_from_this(), options));
  MOEPLAN_ASSIGN(CanaryReferenceData data, makeCanaryReference(*session, tokens));
  const std::lock_guard lock(mutex_);
  tokens_.assign(tokens.begin(), tokens.end());
  limits_ = limits;
  reference_ = std::move(data);
  compiled_ = false;
  digests_.clear();
  everyTokens_ = limits.everyTokens;
  return {};
}

Result<CheckResult> CanaryGuard::check(Session &session, const std::function<bool()> &keepGoing) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<int32_t> tokens;
  CanaryReferenceData reference;
  {
    const std::lock_guard lock(mutex_);
    tokens = tokens_;
    reference = reference_;
  }
  const fb::Plan &plan = session.plan();
  MOEPLAN_ASSIGN(std::unique_ptr<Session> beside,
                 Session::createBeside(session, static_cast<uint32_t>(tokens.size())));
  const CanaryReference view = reference.view();
  auto score = scoreCanary(*beside, tokens, &view, keepGoing);
  CheckResult result;
  result.plan = &plan;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!score.ok()) {
    if (score.failure().code() != MOEPLAN_INTERNAL)
      return std::move(score).status();
    result.verdict = CheckResult::Verdict::changed;
    result.reason = score.failure().message();
    return result;
  }
  result.perplexityIncrease =
      perplexityIncrease(reference.logLikelihoods, score.value().logLikelihoods);
  result.divergence = score.value().divergence;
  const std::lock_guard lock(mutex_);
  judgeSameness(plan, score.value(), result);
  if (result.verdict == CheckResult::Verdict::passed)
    judgeDistance(result);
  return result;
}

void CanaryGuard::judgeSameness(const fb::Plan &plan, const CanaryScore &score,
                                CheckResult &result) {
  auto changed = [&](std::string reason) {
    result.verdict = CheckResult::Verdict::changed;
    result.reason = std::move(reason);
  };
  const fb::CanaryScore *compiled = compiled_ ? plan.canary() : nullptr;
  const bool sameKernels =
      compiled &&
      libraryOf(backend_.artifact().metadata()).target_cpu()->string_view() == backend_.targetCpu();
  if (sameKernels) {
    if (score.digest != compiled->logits_digest())
      changed("its logits on the canary are not those it was compiled with");
    return;
  }
  const auto known = digests_.find(&plan);
  if (known != digests_.end()) {
    if (score.digest != known->second)
      changed("its logits on the canary are not those of its first check");
    return;
  }
  if (compiled) {
    double difference = 0;
    for (size_t i = 0; i < score.logLikelihoods.size(); ++i)
      difference += double(score.logLikelihoods[i]) -
                    double(compiled->log_likelihoods()->Get(static_cast<uint32_t>(i)));
    difference /= double(score.logLikelihoods.size());
    if (std::abs(difference) > kTolerance)
      return changed("its likelihood on the canary is " + nats(difference) +
                     " nats per token off what it was compiled with");
  }
  digests_[&plan] = score.digest;
}

void CanaryGuard::judgeDistance(CheckResult &result) const {
  auto tooFar = [&](std::string reason) {
    result.verdict = CheckResult::Verdict::tooFar;
    result.reason = std::move(reason);
  };
  if (limits_.maxPerplexityIncrease && result.perplexityIncrease > *limits_.maxPerplexityIncrease)
    return tooFar("perplexity on the canary is " + percent(result.perplexityIncrease) +
                  " over the reference, the limit is " + percent(*limits_.maxPerplexityIncrease));
  if (limits_.maxDivergence && result.divergence > *limits_.maxDivergence)
    tooFar("its divergence on the canary is " + nats(result.divergence) +
           " nats per token, the limit is " + nats(*limits_.maxDivergence));
}

} // namespace moeplan
