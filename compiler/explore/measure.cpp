#include "compiler/explore/measure.h"

#include "compiler/driver/compile.h"
#include "runtime/include/moeplan/moeplan.h"
#include "runtime/support/likelihood.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Signals.h"

#include <chrono>
#include <cmath>
#include <set>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

constexpr const char *kReference = "reference-16-bit";
/// Decoding is timed in so many stretches of so many tokens; the fastest counts, since whatever
/// else the machine does only ever slows one down.
constexpr unsigned kStretches = 5, kTokensPerStretch = 32;

Error toError(moeplan_status *status) {
  if (!status)
    return Error::success();
  std::string message = moeplan_status_message(status);
  moeplan_status_free(status);
  return createStringError(message);
}

struct Freer {
  void operator()(moeplan_artifact *artifact) const { moeplan_artifact_close(artifact); }
  void operator()(moeplan_session *session) const { moeplan_session_free(session); }
};
template <typename T> using Owned = std::unique_ptr<T, Freer>;

class Measurer {
public:
  Measurer(const ExploreOptions &options, Frontier &frontier)
      : options(options), frontier(frontier) {
    SmallString<128> file(options.output);
    sys::path::append(file, "measured.tmp.moeplan");
    path = std::string(file);
    sys::RemoveFileOnSignal(path);
  }
  ~Measurer() {
    session.reset();
    artifact.reset();
    sys::fs::remove(path);
    sys::DontRemoveFileOnSignal(path);
  }

  Error run() {
    if (Error error = compilePoints())
      return error;
    if (Error error = openArtifact())
      return error;
    const size_t total = frontier.points.size() + 1;
    auto reference = measure(kReference, 0, total);
    if (!reference)
      return reference.takeError();
    double nats = mean(reference->nats);
    frontier.referencePerplexity = std::exp(nats);
    for (auto [index, point] : enumerate(frontier.points)) {
      auto measured = measure(point.name, index + 1, total);
      if (!measured)
        return measured.takeError();
      MeasuredPlan &result = point.measured.emplace();
      result.perplexity = std::exp(mean(measured->nats));
      result.perplexityIncrease = std::expm1(mean(measured->nats) - nats);
      result.tokensPerSecond = measured->tokensPerSecond;
      // Of the mean over windows of the paired difference.
      double sum = 0;
      const double difference = mean(measured->nats) - nats;
      for (auto [a, b] : zip_equal(measured->nats, reference->nats))
        sum += (a - b - difference) * (a - b - difference);
      const double n = double(measured->nats.size());
      result.standardError = n > 1 ? std::sqrt(sum / (n - 1) / n) : 0;
    }
    if (options.progress)
      options.progress("measure", total, total, "plans");
    return Error::success();
  }

private:
  struct Result {
    std::vector<double> nats; ///< per token, of each window
    double tokensPerSecond = 0;
  };

  static double mean(ArrayRef<double> values) {
    double sum = 0;
    for (double value : values)
      sum += value;
    return sum / double(values.size());
  }

  Error compilePoints() {
    CompileOptions compilation;
    compilation.checkpoint = options.checkpoint;
    compilation.statistics = options.statistics;
    compilation.kvFormat = options.kvFormat;
    compilation.threads = options.threads;
    compilation.output = path;
    compilation.progress = options.progress;
    const FormatInfo *bf16 = findFormat(uint32_t(MOEPLAN_FORMAT_BF16));
    Placement reference;
    reference.experts.assign(frontier.points.front().placement.experts.size(),
                             {{bf16, bf16, bf16}});
    compilation.placements.push_back({kReference, reference});
    std::set<std::string> formats{"bf16"};
    for (const FrontierPoint &point : frontier.points) {
      Placement placement = point.placement;
      placement.miss = MissStrategy::None;
      placement.cacheSlots = 0;
      for (ExpertPlacement &expert : placement.experts) {
        expert.residency = Residency::Host;
        for (const FormatInfo *format : expert.formats)
          formats.insert(std::string(format->name));
      }
      compilation.placements.push_back({point.name, std::move(placement)});
    }
    compilation.alsoFormats.assign(formats.begin(), formats.end());
    auto report = compile(compilation);
    return report ? Error::success() : report.takeError();
  }

  Error openArtifact() {
    moeplan_artifact *opened = nullptr;
    if (Error error = toError(moeplan_artifact_open(path.c_str(), &opened)))
      return error;
    artifact.reset(opened);
    model = moeplan_artifact_model_info(opened);
    context = options.windowContext ? options.windowContext : std::min(512u, model.max_context);
    if (context < 2 || model.bos_token_id < 0)
      return createStringError("perplexity needs a BOS token and a context of two positions");
    auto text = MemoryBuffer::getFile(options.text);
    if (!text)
      return createStringError(options.text + ": " + text.getError().message());
    int32_t *ids = nullptr;
    size_t count = 0;
    if (Error error = toError(moeplan_tokenize(opened, (*text)->getBufferStart(),
                                               (*text)->getBufferSize(), false, &ids, &count)))
      return error;
    tokens.assign(ids, ids + count);
    moeplan_tokens_free(ids);
    windows = std::min<size_t>(options.maxWindows, tokens.size() / (context - 1));
    if (windows == 0)
      return createStringError(options.text + ": " + Twine(tokens.size()) +
                               " tokens, a window needs " + Twine(context - 1));
    return Error::success();
  }

  Expected<Result> measure(const std::string &plan, size_t index, size_t total) {
    if (options.progress)
      options.progress("measure", index, total, "plans");
    moeplan_session_options sessionOptions;
    moeplan_session_options_init(&sessionOptions);
    const uint32_t depth = std::max(1u, std::min(frontier.context, model.max_context) / 2);
    sessionOptions.plan = plan.c_str();
    sessionOptions.context_length = std::max(context, depth + (kStretches + 1) * kTokensPerStretch);
    sessionOptions.threads = options.threads;
    moeplan_session *created = nullptr;
    if (Error error = toError(moeplan_session_create(artifact.get(), &sessionOptions, &created)))
      return error;
    session.reset(created);
    Result result;
    for (size_t window = 0; window < windows; ++window)
      if (Error error = scoreWindow(window, result))
        return error;
    if (Error error = timeDecoding(depth, result))
      return error;
    return result;
  }

  /// As `moeplan eval` does: BOS and context - 1 tokens, each scored by the position before it.
  Error scoreWindow(size_t window, Result &result) {
    const auto targets = ArrayRef(tokens).slice(window * (context - 1), context - 1);
    std::vector<int32_t> input{model.bos_token_id};
    input.insert(input.end(), targets.begin(), targets.end() - 1);
    moeplan_session_reset(session.get());
    if (Error error = toError(
            moeplan_session_append(session.get(), input.data(), input.size(), input.size())))
      return error;
    double sum = 0;
    for (auto [position, target] : enumerate(targets))
      sum += negativeLogLikelihood(
          {moeplan_session_logits(session.get(), position), model.vocab_size}, target);
    result.nats.push_back(sum / double(targets.size()));
    return Error::success();
  }

  Error timeDecoding(uint32_t depth, Result &result) {
    auto token = [&](size_t i) { return tokens[i % tokens.size()]; };
    std::vector<int32_t> prompt;
    for (uint32_t i = 0; i < depth; ++i)
      prompt.push_back(token(i));
    moeplan_session_reset(session.get());
    if (Error error =
            toError(moeplan_session_append(session.get(), prompt.data(), prompt.size(), 1)))
      return error;
    for (unsigned stretch = 0; stretch <= kStretches; ++stretch) { // the first warms up
      const auto begin = std::chrono::steady_clock::now();
      for (unsigned i = 0; i < kTokensPerStretch; ++i) {
        const int32_t next = token(depth + stretch * kTokensPerStretch + i);
        if (Error error = toError(moeplan_session_append(session.get(), &next, 1, 1)))
          return error;
      }
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      if (stretch > 0)
        result.tokensPerSecond = std::max(result.tokensPerSecond, kTokensPerStretch / seconds);
    }
    return Error::success();
  }

  const ExploreOptions &options;
  Frontier &frontier;
  std::string path;
  Owned<moeplan_artifact> artifact;
  Owned<moeplan_session> session;
  moeplan_model_info model{};
  uint32_t context = 0;
  size_t windows = 0;
  std::vector<int32_t> tokens;
};

} // namespace

Error moeplan::compiler::measureFrontier(const ExploreOptions &options, Frontier &frontier) {
  if (options.checkpoint.empty())
    return createStringError("measuring needs a checkpoint: generated weights have no perplexity");
  if (options.text.empty())
    return createStringError("measuring needs a text (--text)");
  return Measurer(options, frontier).run();
}
