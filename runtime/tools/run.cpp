// `moeplan run`: text from a prompt.
#include "runtime/tools/common.h"
#include "runtime/tools/control.h"
#include "runtime/tools/load.h"
#include "runtime/tools/npy_writer.h"
#include "runtime/tools/schedules.h"

#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <optional>

namespace moeplan::tools {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string artifact;
  std::string plan;
  std::optional<std::string> prompt;
  std::optional<std::string> tokenIdsText;
  std::vector<int64_t> tokenIds;
  std::string logitsOut;
  uint32_t maxTokens = 128;
  uint32_t contextLength = 0;
  ThreadOptions threads;
  LoadingOptions loading;
  ControlOptions control;
  std::string switchesText;
  std::vector<PlannedSwitch> switches;
  bool waitForSwitches = false;
  std::string budgetSchedule;
  double dayScale = 1; ///< seconds of the schedule that pass in one
  bool stopAtEos = true;
  bool json = false;
  moeplan_sampler_options sampling{};
};

struct Prefill {
  const float *logits = nullptr; // of the last position
  double seconds = 0;
};

struct Generation {
  std::vector<int32_t> tokens;
  std::string text;
  const char *stopReason = "length";
  size_t steps = 0; // tokens that were decoded: all but the last, which only was sampled
  double seconds = 0;
};

volatile std::sig_atomic_t interrupted = 0;

/// The first Ctrl-C ends the run in order, a second one ends the process.
void catchInterrupt() {
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  (void)sigaction(SIGINT, &action, nullptr);
}

/// "1,5,9". Throws a CLI::ValidationError.
std::vector<int64_t> parseTokenIds(const std::string &text) {
  std::vector<int64_t> ids;
  const char *const end = text.data() + text.size();
  for (const char *at = text.data();; ++at) {
    int64_t id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (stop != end && *stop != ','))
      throw CLI::ValidationError("--token-ids",
                                 "numbers and commas expected, \"" + text + "\" given");
    ids.push_back(id);
    if (stop == end)
      return ids;
    at = stop;
  }
}

std::vector<int32_t> promptTokens(const Options &options, const moeplan_artifact &artifact) {
  const moeplan_model_info model = moeplan_artifact_model_info(&artifact);
  if (!options.prompt) {
    for (int64_t id : options.tokenIds)
      if (id < 0 || id >= model.vocab_size)
        throw Failure("--token-ids: " + std::to_string(id) + " is not in [0, " +
                      std::to_string(model.vocab_size) + "), the model's vocabulary");
    return {options.tokenIds.begin(), options.tokenIds.end()};
  }
  std::vector<int32_t> tokens = tokenize(artifact, *options.prompt, model.bos_token_id >= 0);
  if (tokens.empty())
    throw Failure("the prompt is empty and the model has no BOS token to start from");
  return tokens;
}

Owned<moeplan_sampler> createSampler(const Options &options, uint32_t vocabSize,
                                     const std::vector<int32_t> &prompt) {
  moeplan_sampler *sampler = nullptr;
  check(moeplan_sampler_create(&options.sampling, vocabSize, &sampler));
  Owned<moeplan_sampler> owner(sampler);
  for (int32_t token : prompt)
    moeplan_sampler_observe(sampler, token);
  return owner;
}

Prefill prefill(const Options &options, moeplan_session &session, uint32_t vocabSize,
                const std::vector<int32_t> &prompt) {
  std::optional<NpyWriter> logitsFile;
  std::function<void(size_t, const float *)> writeLogits;
  if (!options.logitsOut.empty()) {
    logitsFile.emplace(options.logitsOut, prompt.size(), vocabSize);
    writeLogits = [&](size_t, const float *logits) { logitsFile->writeRow(logits); };
  }
  Progress progress("prefill", prompt.size(), "tokens");
  const auto start = Clock::now();
  const float *logits = appendInChunks(session, prompt, writeLogits, [&](size_t done) {
    progress.update(done);
    return interrupted == 0;
  });
  const double seconds = secondsSince(start);
  progress.finish();
  if (!logits)
    throw Failure("interrupted");
  if (logitsFile)
    logitsFile->commit();
  return {logits, seconds};
}

/// Follows --switch-at and --budget-schedule between two tokens.
class Director {
public:
  Director(const Options &options, moeplan_session &session, moeplan_runtime &runtime)
      : options_(options), session_(session), runtime_(runtime) {
    if (!options.budgetSchedule.empty())
      budgets_ = parseBudgets(readTextFile(options.budgetSchedule), options.budgetSchedule);
  }

  /// The budget that the day begins with, if there is one.
  void begin() { direct(0); }
  /// `tokens` have been generated.
  void direct(size_t tokens) {
    while (nextSwitch_ < options_.switches.size() &&
           options_.switches[nextSwitch_].tokens <= tokens) {
      moeplan_switch_options how;
      moeplan_switch_options_init(&how);
      how.wait = options_.waitForSwitches;
      const PlannedSwitch &planned = options_.switches[nextSwitch_++];
      check(moeplan_session_switch_plan(&session_, planned.plan.c_str(), &how));
    }
    while (nextBudget_ < budgets_.size() &&
           budgets_[nextBudget_].seconds <= secondsSince(start_) * options_.dayScale)
      check(moeplan_runtime_set_device_budget(&runtime_, budgets_[nextBudget_++].bytes));
  }

private:
  const Options &options_;
  moeplan_session &session_;
  moeplan_runtime &runtime_;
  std::vector<PlannedBudget> budgets_;
  size_t nextSwitch_ = 0, nextBudget_ = 0;
  const Clock::time_point start_ = Clock::now();
};

/// Samples up to max_tokens, starting from the logits of the prompt's last token.
Generation generate(const Options &options, const moeplan_artifact &artifact,
                    moeplan_session &session, moeplan_sampler &sampler, Director &director,
                    const float *logits) {
  moeplan_text_decoder *decoder = nullptr; // null: no tokenizer, ids are printed
  if (moeplan_artifact_has_tokenizer(&artifact))
    check(moeplan_text_decoder_create(&artifact, &decoder));
  const Owned<moeplan_text_decoder> owner(decoder);
  Generation result;
  const char *text = nullptr;
  size_t bytes = 0;
  auto emit = [&] {
    result.text.append(text, bytes);
    if (!options.json)
      writeOutput({text, bytes});
  };

  const auto start = Clock::now();
  int32_t next = options.maxTokens > 0 ? moeplan_sampler_sample(&sampler, logits) : 0;
  while (result.tokens.size() < options.maxTokens) {
    if (interrupted != 0) {
      result.stopReason = "interrupted";
      break;
    }
    const int32_t token = next;
    if (options.stopAtEos && moeplan_artifact_is_eos(&artifact, token)) {
      result.stopReason = "eos";
      break;
    }
    result.tokens.push_back(token);
    if (decoder) {
      check(moeplan_text_decoder_push(decoder, token, &text, &bytes));
      emit();
    } else if (!options.json) {
      writeOutput((result.tokens.size() > 1 ? "," : "") + std::to_string(token));
    }
    if (result.tokens.size() == options.maxTokens)
      break;
    if (moeplan_session_position(&session) == moeplan_session_context_length(&session)) {
      result.stopReason = "context";
      break;
    }
    director.direct(result.tokens.size());
    check(moeplan_session_append_sampled(&session, &token, 1, &sampler, &next));
    ++result.steps;
  }
  result.seconds = secondsSince(start);
  if (decoder) {
    check(moeplan_text_decoder_finish(decoder, &text, &bytes));
    emit();
  }
  return result;
}

/// Null where nothing was measured.
nlohmann::ordered_json ratePerSecond(size_t tokens, double seconds) {
  if (tokens == 0)
    return nullptr;
  return static_cast<double>(tokens) / std::max(seconds, 1e-9);
}

/// What a session was, once it is gone.
struct SessionFacts {
  std::string plan, targetCpu;
  uint32_t threads;
};

void report(const Options &options, const SessionFacts &session, size_t promptTokens,
            const Prefill &prefill, const Generation &generation) {
  const auto prefillRate = ratePerSecond(promptTokens, prefill.seconds);
  const auto decodeRate = ratePerSecond(generation.steps, generation.seconds);
  if (options.json) {
    writeJson({{"prompt_tokens", promptTokens},
               {"tokens", generation.tokens},
               {"text", generation.text},
               {"stop_reason", generation.stopReason},
               {"prefill_tokens_per_second", prefillRate},
               {"decode_tokens_per_second", decodeRate},
               {"plan", session.plan},
               {"target_cpu", session.targetCpu},
               {"threads", session.threads},
               {"seed", options.sampling.seed}});
    return;
  }
  if (!generation.tokens.empty())
    writeOutput("\n");
  auto rate = [](const nlohmann::ordered_json &value) {
    return value.is_null() ? "" : ", " + formatRate(value.get<double>()) + " tokens/s";
  };
  std::fprintf(
      stderr, "prefill %zu tokens%s; decode %zu tokens%s; stop: %s; plan %s, %s, %u threads\n",
      promptTokens, rate(prefillRate).c_str(), generation.tokens.size(), rate(decodeRate).c_str(),
      generation.stopReason, session.plan.c_str(), session.targetCpu.c_str(), session.threads);
}

void run(const Options &options) {
  const auto artifact = openAndLoad(options.artifact, options.plan, options.loading);
  const uint32_t vocabSize = moeplan_artifact_model_info(artifact.get()).vocab_size;
  const std::vector<int32_t> prompt = promptTokens(options, *artifact);
  const auto sampler = createSampler(options, vocabSize, prompt);
  Control control(*artifact, options.control, [&](const moeplan_event &event) {
    if (options.json)
      writeJson(eventJson(event));
    else
      std::fprintf(stderr, "%s\n", eventLine(event).c_str());
  });
  auto session = createSession(*artifact, options.plan, options.contextLength, options.threads,
                               &control.runtime());
  const uint32_t contextLength = moeplan_session_context_length(session.get());
  if (prompt.size() > contextLength)
    throw Failure("the prompt has " + std::to_string(prompt.size()) +
                  " tokens, the KV cache holds " + std::to_string(contextLength) +
                  " (see --context)");
  catchInterrupt();
  const Prefill filled = prefill(options, *session, vocabSize, prompt);
  Director director(options, *session, control.runtime());
  director.begin();
  const Generation generation =
      generate(options, *artifact, *session, *sampler, director, filled.logits);
  const SessionFacts facts{moeplan_session_plan_name(session.get()),
                           moeplan_session_target_cpu(session.get()),
                           moeplan_session_threads(session.get())};
  session.reset(); // what is still to be told of it comes before the result
  report(options, facts, prompt.size(), filled, generation);
  if (interrupted != 0)
    throw Failure("interrupted");
}

} // namespace

Command addRunCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("run", "Generate text from a prompt");
  auto options = std::make_shared<Options>();
  moeplan_sampler_options &sampling = options->sampling;
  moeplan_sampler_options_init(&sampling);

  addArtifactArgument(*command, options->artifact);
  auto *prompt =
      command->add_option("--prompt", options->prompt, "Text to continue; BOS is put before it")
          ->type_name("TEXT");
  command
      ->add_option("--token-ids", options->tokenIdsText,
                   "Token ids to continue, like 1,5,9; used as they are, without BOS")
      ->excludes(prompt)
      ->type_name("IDS");
  command->callback([options] {
    if (options->tokenIdsText)
      options->tokenIds = parseTokenIds(*options->tokenIdsText);
    else if (!options->prompt)
      throw CLI::RequiredError("--prompt or --token-ids");
    options->switches = parseSwitches(options->switchesText);
  });
  addPlanOption(*command, options->plan);
  command->add_option("--max-tokens", options->maxTokens, "Most tokens to generate")
      ->capture_default_str()
      ->type_name("N");
  command
      ->add_option("--context", options->contextLength,
                   "Positions of the KV cache (default: the model's, at most 4096)")
      ->check(positive())
      ->type_name("N");
  addThreadOptions(*command, options->threads);
  addLoadingOptions(*command, options->loading);
  addDeviceOption(*command, options->control.device);
  command
      ->add_option("--switch-at", options->switchesText,
                   "Go on with another plan after so many tokens, as 32:fast,64:quality")
      ->type_name("TOKENS:PLAN,...");
  command->add_flag("--wait-for-switches", options->waitForSwitches,
                    "Generate nothing while a plan is staged: the same tokens in every run");
  command
      ->add_option("--budget-schedule", options->budgetSchedule,
                   "Lines of a time of day and bytes of device memory, as 08:30 24GiB; the run "
                   "begins at midnight")
      ->type_name("FILE");
  command->add_option("--day-scale", options->dayScale, "Seconds of the schedule that pass in one")
      ->capture_default_str()
      ->check(positive())
      ->type_name("X");
  addBandwidthShareOption(*command, options->control.bandwidthShare);
  addCanaryOptions(*command, options->control);
  command->add_option("--temperature", sampling.temperature, "0 is greedy")
      ->capture_default_str()
      ->check(notNegative())
      ->type_name("T");
  command->add_option("--top-k", sampling.top_k, "Draw from the K likeliest tokens; 0 is all")
      ->capture_default_str()
      ->type_name("K");
  command
      ->add_option("--top-p", sampling.top_p,
                   "Draw from the fewest tokens with this probability together; 1 is all")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->type_name("P");
  command
      ->add_option("--repetition-penalty", sampling.repetition_penalty,
                   "Makes recent tokens less likely; 1 is off")
      ->capture_default_str()
      ->check(positive())
      ->type_name("X");
  command->add_option("--seed", sampling.seed, "Seed of the sampling")
      ->capture_default_str()
      ->type_name("S");
  command->add_flag("--stop-at-eos,!--ignore-eos", options->stopAtEos,
                    "End at an EOS token, or go on past it (default: end)");
  command
      ->add_option("--logits-out", options->logitsOut,
                   "Write the prompt's logits, float32 [positions, vocab], as .npy")
      ->type_name("FILE");
  addJsonFlag(*command, options->json);
  command->footer("Example:\n  moeplan run tiny.moeplan --prompt \"It was\" --max-tokens 40 "
                  "--temperature 0.8 --seed 7");
  return {command, [options] { run(*options); }};
}

} // namespace moeplan::tools
