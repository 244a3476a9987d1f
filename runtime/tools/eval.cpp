// `moeplan eval`: perplexity of a text.
#include "runtime/tools/common.h"
#include "runtime/tools/control.h"
#include "runtime/tools/load.h"

#include "runtime/support/likelihood.h"
#include "runtime/support/progress.h"
#include "runtime/support/units.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace moeplan::tools {
namespace {

struct Options {
  std::string artifact;
  std::string plan;
  std::string text;
  uint32_t contextLength = 0;
  uint64_t maxWindows = 0; // 0: all
  ThreadOptions threads;
  LoadingOptions loading;
  std::string device = "cpu";
  bool json = false;
  bool perWindow = false;
};

struct Score {
  uint64_t windows = 0;
  uint64_t tokens = 0;
  double negativeLogLikelihood = 0; // nats, summed over the tokens
  std::vector<double> windowNll;    // nats per token, of each window
  double seconds = 0;
};

/// Windows of `context` positions, BOS and context - 1 tokens of the text each. They do not
/// overlap, every token in them is scored by the logits of the position before it, and what does
/// not fill a window at the end is dropped.
Score evaluate(moeplan_session &session, const moeplan_model_info &model,
               std::span<const int32_t> text, uint64_t windows, uint32_t context) {
  const size_t scored = context - 1;
  Score score;
  Progress progress("evaluate", windows * scored, "tokens");
  std::vector<int32_t> input(scored); // the last token of a window predicts nothing
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t window = 0; window < windows; ++window) {
    const auto targets = text.subspan(window * scored, scored);
    input[0] = model.bos_token_id;
    std::copy(targets.begin(), targets.end() - 1, input.begin() + 1);
    moeplan_session_reset(&session);
    const double before = score.negativeLogLikelihood;
    appendInChunks(
        session, input,
        [&](size_t position, const float *logits) {
          const double nll = negativeLogLikelihood({logits, model.vocab_size}, targets[position]);
          if (!std::isfinite(nll))
            throw Failure("window " + std::to_string(window) + ", position " +
                          std::to_string(position) + ": the logits give no finite likelihood");
          score.negativeLogLikelihood += nll;
        },
        [&](size_t done) {
          progress.update(score.tokens + done);
          return true;
        });
    score.tokens += scored;
    score.windowNll.push_back((score.negativeLogLikelihood - before) / static_cast<double>(scored));
    ++score.windows;
  }
  score.seconds = secondsSince(start);
  progress.finish();
  return score;
}

/// The whole file, without BOS.
std::vector<int32_t> tokenizeFile(const moeplan_artifact &artifact, const std::string &path) {
  const std::string text = readTextFile(path);
  try {
    return tokenize(artifact, text, false);
  } catch (const Failure &failure) {
    throw Failure(path + ": " + failure.what());
  }
}

void eval(const Options &options) {
  const auto artifact = openAndLoad(options.artifact, options.plan, options.loading);
  const moeplan_model_info model = moeplan_artifact_model_info(artifact.get());
  if (model.bos_token_id < 0)
    throw Failure("the model has no BOS token: windows would have nothing to start with");
  const uint32_t context =
      options.contextLength > 0 ? options.contextLength : std::min(512U, model.max_context);
  if (context < 2)
    throw Failure("a context of one position scores no token");
  const std::vector<int32_t> text = tokenizeFile(*artifact, options.text);
  uint64_t windows = text.size() / (context - 1);
  if (windows == 0)
    throw Failure(options.text + ": " + std::to_string(text.size()) + " tokens, a window needs " +
                  std::to_string(context - 1) + " (see --context)");
  if (options.maxWindows > 0)
    windows = std::min(windows, options.maxWindows);
  Control control(*artifact, {.device = options.device}, {});
  const auto session =
      createSession(*artifact, options.plan, context, options.threads, &control.runtime());

  const Score score = evaluate(*session, model, text, windows, context);
  const auto tokens = static_cast<double>(score.tokens);
  const double nll = score.negativeLogLikelihood / tokens;
  const double rate = tokens / std::max(score.seconds, 1e-9);
  const char *plan = moeplan_session_plan_name(session.get());
  const uint32_t threads = moeplan_session_threads(session.get());
  if (options.json) {
    nlohmann::ordered_json json{{"perplexity", std::exp(nll)},
                                {"nll", nll},
                                {"tokens", score.tokens},
                                {"tokens_per_second", rate},
                                {"windows", score.windows},
                                {"context", context},
                                {"plan", plan},
                                {"threads", threads}};
    if (options.perWindow)
      json["window_nll"] = score.windowNll;
    writeJson(json);
    return;
  }
  writeOutput("perplexity " + formatRate(std::exp(nll)) + " (" + formatRate(nll) +
              " nats per token) over " + std::to_string(score.tokens) + " tokens in " +
              std::to_string(score.windows) + " windows of " + std::to_string(context) + "\n" +
              formatRate(rate) + " tokens/s; plan " + plan + ", " + std::to_string(threads) +
              " threads\n");
}

} // namespace

Command addEvalCommand(CLI::App &app) {
  CLI::App *command = app.add_subcommand("eval", "Measure the perplexity of a text");
  auto options = std::make_shared<Options>();
  addArtifactArgument(*command, options->artifact);
  command->add_option("--text", options->text, "UTF-8 text to score")
      ->required()
      ->type_name("FILE");
  addPlanOption(*command, options->plan);
  command
      ->add_option("--context", options->contextLength,
                   "Positions of a window, BOS included (default: the model's, at most 512)")
      ->check(positive())
      ->type_name("N");
  command->add_option("--max-windows", options->maxWindows, "Most windows to score (default: all)")
      ->check(positive())
      ->type_name("N");
  addThreadOptions(*command, options->threads);
  addLoadingOptions(*command, options->loading);
  addDeviceOption(*command, options->device);
  addJsonFlag(*command, options->json);
  command->add_flag("--per-window", options->perWindow,
                    "With --json: the nats per token of every window, for paired comparisons");
  command->footer("Example:\n  moeplan eval tiny.moeplan --text wiki.test.txt --context 256 "
                  "--max-windows 64");
  return {command, [options] { eval(*options); }};
}

} // namespace moeplan::tools
