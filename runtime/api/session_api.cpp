#include "runtime/api/handles.h"
#include "runtime/control/fit.h"

#include <cstdlib>
#include <cstring>

using namespace moeplan;

extern "C" {

void moeplan_session_options_init(moeplan_session_options *options) {
  if (options)
    *options = {sizeof(moeplan_session_options), nullptr, 0, 0, false, nullptr};
}

moeplan_status *moeplan_session_create(const moeplan_artifact *artifact,
                                       const moeplan_session_options *options,
                                       moeplan_session **out) {
  return guard([&]() -> Status {
    if (!artifact || !out)
      return nullArgument(artifact ? "out" : "artifact");
    moeplan_session_options all;
    moeplan_session_options_init(&all);
    MOEPLAN_TRY(readOptions(options, all));
    const SessionOptions given{all.plan, all.context_length, all.threads, all.pin_threads};
    std::shared_ptr<Runtime> runtime;
    if (all.runtime) {
      runtime = all.runtime->runtime;
      if (&runtime->backend().artifact() != artifact->artifact.get())
        return invalidArgument("options.runtime is of another artifact");
    } else {
      MOEPLAN_TRY(Session::check(*artifact->artifact, given, false)); // before kernels are loaded
      MOEPLAN_ASSIGN(runtime, Runtime::create(*artifact->artifact, {}));
    }
    auto handle = std::make_unique<moeplan_session>(std::move(runtime), nullptr);
    MOEPLAN_ASSIGN(handle->session, handle->runtime->createSession(given, handle.get()));
    *out = handle.release();
    return {};
  });
}

moeplan_status *moeplan_runtime_fit(moeplan_runtime *runtime,
                                    const moeplan_session_options *options, char **json) {
  return guard([&]() -> Status {
    if (!runtime || !json)
      return nullArgument(runtime ? "json" : "runtime");
    moeplan_session_options all;
    moeplan_session_options_init(&all);
    MOEPLAN_TRY(readOptions(options, all));
    Backend &backend = runtime->runtime->backend();
    const SessionOptions given{all.plan, all.context_length, all.threads, all.pin_threads};
    MOEPLAN_ASSIGN(const MachineFit fit, fitOf(backend, given));
    *json = strdup(describe(fit).c_str());
    return *json ? Status() : exhausted("out of memory");
  });
}

void moeplan_session_free(moeplan_session *session) {
  if (session)
    session->runtime->closeSession(session->session);
  delete session;
}

void moeplan_switch_options_init(moeplan_switch_options *options) {
  if (options)
    *options = {sizeof(moeplan_switch_options), false};
}

moeplan_status *moeplan_session_switch_plan(moeplan_session *session, const char *plan,
                                            const moeplan_switch_options *options) {
  return guard([&]() -> Status {
    if (!session || !plan)
      return nullArgument(session ? "plan" : "session");
    moeplan_switch_options all;
    moeplan_switch_options_init(&all);
    MOEPLAN_TRY(readOptions(options, all));
    return session->runtime->switchPlan(*session->session, plan, all.wait);
  });
}

moeplan_status *moeplan_session_append(moeplan_session *session, const int32_t *tokens,
                                       size_t count, size_t logits_count) {
  return guard([&]() -> Status {
    if (!session || (!tokens && count > 0))
      return nullArgument(session ? "tokens" : "session");
    return session->session->append({tokens, count}, logits_count);
  });
}

moeplan_status *moeplan_session_append_sampled(moeplan_session *session, const int32_t *tokens,
                                               size_t count, moeplan_sampler *sampler,
                                               int32_t *token) {
  return guard([&]() -> Status {
    if (!session || !sampler || !token || (!tokens && count > 0))
      return nullArgument(!session   ? "session"
                          : !sampler ? "sampler"
                          : !token   ? "token"
                                     : "tokens");
    if (sampler->sampler.vocabSize() != session->session->vocabSize())
      return invalidArgument("the sampler is for " + std::to_string(sampler->sampler.vocabSize()) +
                             " tokens, the model has " +
                             std::to_string(session->session->vocabSize()));
    MOEPLAN_ASSIGN(*token, session->session->appendSampled({tokens, count}, sampler->sampler));
    return {};
  });
}

moeplan_status *moeplan_session_append_counted(moeplan_session *session, const int32_t *tokens,
                                               size_t count, size_t logits_count,
                                               moeplan_work *work) {
  return guard([&]() -> Status {
    if (!session || (!tokens && count > 0) || !work)
      return nullArgument(!session ? "session" : !work ? "work" : "tokens");
    MOEPLAN_ASSIGN(*work, session->session->appendCounted({tokens, count}, logits_count));
    return {};
  });
}

moeplan_status *moeplan_session_measure_kernels(moeplan_session *session, const int32_t *tokens,
                                                size_t count, size_t logits_count,
                                                uint32_t repetitions, char **json) {
  return guard([&]() -> Status {
    if (!session || (!tokens && count > 0) || !json)
      return nullArgument(!session ? "session" : !json ? "json" : "tokens");
    MOEPLAN_ASSIGN(const std::vector<KernelTime> times,
                   session->session->measureKernels({tokens, count}, logits_count, repetitions));
    *json = strdup(describeKernelTimes(times).c_str());
    return *json ? Status() : exhausted("out of memory");
  });
}

const float *moeplan_session_logits(const moeplan_session *session, size_t index) {
  return session ? session->session->logits(index) : nullptr;
}

uint32_t moeplan_session_position(const moeplan_session *session) {
  return session ? session->session->position() : 0;
}

uint32_t moeplan_session_context_length(const moeplan_session *session) {
  return session ? session->session->contextLength() : 0;
}

uint32_t moeplan_session_threads(const moeplan_session *session) {
  return session ? session->session->threads() : 0;
}

uint64_t moeplan_session_weight_bytes_per_token(const moeplan_session *session) {
  return session ? session->session->weightBytesPerToken() : 0;
}

const char *moeplan_session_target_cpu(const moeplan_session *session) {
  return session ? session->session->targetCpu().c_str() : nullptr;
}

const char *moeplan_session_plan_name(const moeplan_session *session) {
  return session ? session->session->planName() : nullptr;
}

void moeplan_session_reset(moeplan_session *session) {
  if (session)
    session->session->reset();
}

void moeplan_sampler_options_init(moeplan_sampler_options *options) {
  if (!options)
    return;
  *options = {};
  options->struct_size = sizeof(moeplan_sampler_options);
  options->temperature = 0.0f;
  options->top_p = 1.0f;
  options->repetition_penalty = 1.0f;
  options->repetition_window = 64;
}

moeplan_status *moeplan_sampler_create(const moeplan_sampler_options *options, uint32_t vocab_size,
                                       moeplan_sampler **out) {
  return guard([&]() -> Status {
    if (!out)
      return nullArgument("out");
    moeplan_sampler_options all;
    moeplan_sampler_options_init(&all);
    MOEPLAN_TRY(readOptions(options, all));
    MOEPLAN_ASSIGN(Sampler sampler, Sampler::create(all, vocab_size));
    *out = new moeplan_sampler{std::move(sampler)};
    return {};
  });
}

void moeplan_sampler_observe(moeplan_sampler *sampler, int32_t token) {
  if (sampler)
    sampler->sampler.observe(token);
}

int32_t moeplan_sampler_sample(moeplan_sampler *sampler, const float *logits) {
  return sampler && logits ? sampler->sampler.sample(logits) : 0;
}

void moeplan_sampler_free(moeplan_sampler *sampler) { delete sampler; }

moeplan_status *moeplan_tokenize(const moeplan_artifact *artifact, const char *text, size_t bytes,
                                 bool add_bos, int32_t **tokens, size_t *count) {
  return guard([&]() -> Status {
    if (!artifact || (!text && bytes > 0) || !tokens || !count)
      return nullArgument("an argument");
    MOEPLAN_ASSIGN(const Tokenizer *tokenizer, artifact->tokenizer());
    const int32_t bos = add_bos ? artifact->artifact->model().bos_token_id() : -1;
    if (add_bos && bos < 0)
      return invalidArgument("the model has no BOS token");
    MOEPLAN_ASSIGN(const std::vector<int32_t> ids,
                   tokenizer->encode({text ? text : "", bytes}, bos));
    auto *copy =
        static_cast<int32_t *>(std::malloc(std::max<size_t>(ids.size(), 1) * sizeof(int32_t)));
    if (!copy)
      return exhausted("out of memory");
    std::copy(ids.begin(), ids.end(), copy);
    *tokens = copy;
    *count = ids.size();
    return {};
  });
}

void moeplan_tokens_free(int32_t *tokens) { std::free(tokens); }

moeplan_status *moeplan_text_decoder_create(const moeplan_artifact *artifact,
                                            moeplan_text_decoder **out) {
  return guard([&]() -> Status {
    if (!artifact || !out)
      return nullArgument(artifact ? "out" : "artifact");
    MOEPLAN_ASSIGN(const Tokenizer *tokenizer, artifact->tokenizer());
    *out = new moeplan_text_decoder{TextDecoder(*tokenizer)};
    return {};
  });
}

moeplan_status *moeplan_text_decoder_push(moeplan_text_decoder *decoder, int32_t token,
                                          const char **text, size_t *bytes) {
  return guard([&]() -> Status {
    if (!decoder || !text || !bytes)
      return nullArgument("an argument");
    MOEPLAN_ASSIGN(const std::string_view piece, decoder->decoder.push(token));
    *text = piece.data();
    *bytes = piece.size();
    return {};
  });
}

moeplan_status *moeplan_text_decoder_finish(moeplan_text_decoder *decoder, const char **text,
                                            size_t *bytes) {
  return guard([&]() -> Status {
    if (!decoder || !text || !bytes)
      return nullArgument("an argument");
    const std::string_view piece = decoder->decoder.finish();
    *text = piece.data();
    *bytes = piece.size();
    return {};
  });
}

void moeplan_text_decoder_free(moeplan_text_decoder *decoder) { delete decoder; }

} // extern "C"
