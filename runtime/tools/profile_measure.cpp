#include "runtime/tools/profile_measure.h"

#include "runtime/support/progress.h"

#include <algorithm>
#include <random>
#include <set>

namespace moeplan::tools {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr uint32_t promptTokens = 512;
/// Positions that a second session of a plan starts at, to tell keys and values from the rest.
constexpr uint32_t deepPromptTokens = 2048;
/// Plans with more weights than this are slow: few tokens are measured at a time, at one depth,
/// and the prompt once.
constexpr double smallPlanBytes = 64 << 20;
constexpr uint32_t smallPlanTokens = 32, largePlanTokens = 4;
constexpr uint32_t smallPlanPrefills = 3, largePlanPrefills = 1;
constexpr uint64_t bandwidthBufferBytes = uint64_t{1} << 29;
constexpr uint32_t bandwidthRepetitions = 5;

/// A plan of a probe at one depth of context, and its best times.
struct Subject {
  Owned<moeplan_session> session;
  PlanWork work;
  uint32_t prompt = 0, prefills = 0, stepsAtOnce = 0;
  uint32_t vocabulary = 0;
  std::mt19937 random{1};
  double prefillSeconds = 1e300; ///< of the prompt
  double decodeSeconds = 1e300;  ///< of a step
  double decodePosition = 0;     ///< of that step

  std::vector<int32_t> tokens(uint32_t count) {
    std::vector<int32_t> list(count);
    for (int32_t &token : list)
      token = static_cast<int32_t>(random() % vocabulary);
    return list;
  }

  void prefill() {
    moeplan_session_reset(session.get());
    const std::vector<int32_t> list = tokens(prompt);
    const auto start = Clock::now();
    appendInChunks(*session, list, {}, {});
    prefillSeconds = std::min(prefillSeconds, secondsSince(start));
  }

  void decode() {
    const std::vector<int32_t> list = tokens(stepsAtOnce);
    const uint32_t before = moeplan_session_position(session.get());
    const auto start = Clock::now();
    for (const int32_t &token : list)
      check(moeplan_session_append(session.get(), &token, 1, 1));
    const double seconds = secondsSince(start) / stepsAtOnce;
    if (seconds < decodeSeconds) {
      decodeSeconds = seconds;
      decodePosition = before + (stepsAtOnce + 1) / 2.0;
    }
  }

  DecodeSample decodeSample() const {
    return {work.matrixBytes, work.vectorBytes,
            work.heldBytes,   work.kvBytesPerPosition * decodePosition,
            work.layers,      decodeSeconds};
  }
};

class Probes {
public:
  explicit Probes(const ProfileOptions &options) : options_(options) {
    for (const std::string &path : options.probes)
      open(path);
    if (subjects_.empty())
      throw Failure("the probes have no plan to measure");
  }

  uint32_t threads() const { return moeplan_session_threads(subjects_.front().session.get()); }

  FitInput measure();

private:
  void open(const std::string &path);
  void addSubject(const moeplan_artifact &artifact, const Json &description,
                  const std::string &plan, uint32_t prompt);

  const ProfileOptions &options_;
  std::vector<Owned<moeplan_artifact>> artifacts_; // outlive the sessions
  std::vector<Subject> subjects_;
};

void Probes::open(const std::string &path) {
  artifacts_.push_back(openArtifact(path));
  const moeplan_artifact &artifact = *artifacts_.back();
  char *text = nullptr;
  check(moeplan_artifact_inspect(&artifact, &text));
  const Owned<char> owner(text);
  const Json description = Json::parse(text);
  for (size_t i = 0; i < moeplan_artifact_plan_count(&artifact); ++i) {
    const std::string plan = moeplan_artifact_plan_name(&artifact, i);
    addSubject(artifact, description, plan, promptTokens);
    if (i == 0 && subjects_.back().work.heldBytes < smallPlanBytes)
      addSubject(artifact, description, plan, deepPromptTokens);
  }
}

void Probes::addSubject(const moeplan_artifact &artifact, const Json &description,
                        const std::string &plan, uint32_t prompt) {
  Subject subject;
  subject.work = planWork(description, plan);
  const bool small = subject.work.heldBytes < smallPlanBytes;
  subject.stepsAtOnce = small ? smallPlanTokens : largePlanTokens;
  subject.prefills = small ? smallPlanPrefills : largePlanPrefills;
  subject.prompt = prompt;
  const moeplan_model_info info = moeplan_artifact_model_info(&artifact);
  subject.vocabulary = info.vocab_size;
  const uint32_t context = prompt + (options_.repetitions + 1) * subject.stepsAtOnce;
  if (context > info.max_context) {
    if (prompt > promptTokens)
      return; // a probe of short contexts: one depth has to do
    throw Failure("a probe takes " + std::to_string(info.max_context) + " positions, " +
                  std::to_string(context) + " are needed: fewer --repetitions");
  }
  subject.session = createSession(artifact, plan, context, options_.threads);
  subjects_.push_back(std::move(subject));
}

FitInput Probes::measure() {
  Progress progress("measure", subjects_.size() * (1 + options_.repetitions), "runs");
  for (Subject &subject : subjects_) {
    for (uint32_t i = 0; i < subject.prefills; ++i)
      subject.prefill();
    progress.advance(1);
  }
  // Plans in turn, so that what else the machine does meets all of them.
  for (uint32_t repetition = 0; repetition < options_.repetitions; ++repetition)
    for (Subject &subject : subjects_) {
      subject.decode();
      progress.advance(1);
    }
  FitInput input;
  for (const Subject &subject : subjects_) {
    input.decode.push_back(subject.decodeSample());
    if (subject.prompt == promptTokens)
      input.prefill.push_back({subject.work.matrixOperations, subject.work.layers,
                               subject.prefillSeconds / subject.prompt});
  }
  progress.finish();
  return input;
}

/// 1, 2, 4, ... and `most`.
std::set<uint32_t> threadCounts(uint32_t most) {
  std::set<uint32_t> counts = {most};
  for (uint32_t count = 1; count < most; count *= 2)
    counts.insert(count);
  return counts;
}

void measureBandwidths(uint32_t threads, std::map<uint32_t, double> &rates) {
  for (const uint32_t count : threadCounts(threads)) {
    double rate = 0;
    check(moeplan_measure_read_bandwidth(count, bandwidthBufferBytes, bandwidthRepetitions, &rate));
    rates[count] = std::max(rates[count], rate);
  }
}

/// "int4g32" -> "int4".
std::string widthOf(const std::string &format) { return format.substr(0, format.find('g')); }

} // namespace

PlanWork planWork(const Json &description, const std::string &plan) {
  const Json &model = description.at("model");
  const double experts = model.at("num_experts"), used = model.at("num_experts_per_tok");
  const bool tied = model.at("tie_word_embeddings");
  PlanWork work;
  work.layers = model.at("num_layers");
  const double bytesOfElement = model.at("kv_cache_format") == "f32"    ? 4
                                : model.at("kv_cache_format") == "int8" ? 1
                                                                        : 2;
  // Once for each query head: see Processor.
  work.kvBytesPerPosition = 2 * work.layers * model.at("num_attention_heads").get<double>() *
                            model.at("head_dim").get<double>() * bytesOfElement;
  for (const Json &segment : description.at("segments")) {
    const Json &plans = segment.at("plans");
    if (segment.at("kind") != "weight" ||
        std::find(plans.begin(), plans.end(), plan) == plans.end())
      continue;
    const std::string name = segment.at("name"), format = segment.at("format");
    const double bytes = segment.at("bytes");
    work.heldBytes += bytes;
    const bool embedding = name.starts_with("embedding@");
    if (embedding && !tied)
      continue; // a row of it per token
    const double share = name.find(".experts.") == std::string::npos ? 1 : used / experts;
    if (format == "f32") {
      work.vectorBytes += bytes * share;
      continue;
    }
    const Json &shape = segment.at("shape");
    work.matrixBytes[widthOf(format)] += bytes * share;
    work.matrixOperations[widthOf(format)] +=
        2 * shape.at(0).get<double>() * shape.at(1).get<double>() * share;
  }
  return work;
}

FitInput measureProbes(const ProfileOptions &options, uint32_t &threads,
                       std::map<uint32_t, double> &readBytesPerSecond) {
  Probes probes(options);
  threads = probes.threads();
  measureBandwidths(threads, readBytesPerSecond);
  FitInput input = probes.measure();
  measureBandwidths(threads, readBytesPerSecond);
  input.readBytesPerSecond = readBytesPerSecond.at(threads);
  return input;
}

} // namespace moeplan::tools
