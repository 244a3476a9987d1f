#include "tests/unit/switching/served_model.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <set>
#include <stdexcept>
#include <thread>

namespace moeplan::testing {

namespace {

const std::string kSource = MOEPLAN_SOURCE_DIR;

const std::string kCanary = "[canary]\ntokens = 64\nevery_tokens = 16\ntext = \"" + kSource +
                            "/examples/tiny-mixtral/holmes.txt\"\n";
const std::string kProfile = "profile = \"" + kSource + "/examples/profiles/rtx4090-24gb.toml\"\n";

std::string tier(const std::string &name, const std::string &pins, const std::string &more = "") {
  return "[[tier]]\nname = \"" + name + "\"\n" + more + "pin = [" + pins + "]\n";
}

std::string pin(const std::string &experts, const std::string &format,
                const std::string &residency = "") {
  return "{ experts = \"" + experts + "\", format = \"" + format + "\"" +
         (residency.empty() ? "" : ", residency = \"" + residency + "\"") + " },";
}

class CompiledArtifact {
public:
  /// `model`: what moeplanc compiles.
  CompiledArtifact(const std::string &policy,
                   const std::string &model = kSource + "/examples/tiny-mixtral")
      : path_(directory_.path() / "a.moeplan") {
    const std::filesystem::path file = directory_.path() / "policy.toml";
    writeFile(file, policy);
    const std::string command = std::string(MOEPLAN_TEST_MOEPLANC) + " compile " + model +
                                " --policy " + file.string() + " -o " + path_.string() + " > " +
                                (directory_.path() / "out").string() + " 2>&1";
    if (std::system(command.c_str()) != 0)
      throw std::runtime_error(readFile(directory_.path() / "out"));
  }
  const std::filesystem::path &path() const { return path_; }

private:
  TemporaryDirectory directory_;
  std::filesystem::path path_;
};

} // namespace

const std::filesystem::path &Artifacts::device() {
  static const CompiledArtifact artifact(
      kProfile + kCanary + tier("int8", pin("*", "int8", "device")) +
      tier("int4", pin("*", "int4", "device"), "non_expert_format = \"int8\"\n") +
      tier("twin", pin("*", "int4", "device"), "non_expert_format = \"int8\"\n") +
      tier("half",
           pin("layers.0.*", "int4", "device") + pin("layers.1.*", "int4", "device") +
               pin("*", "int8", "host"),
           "non_expert_format = \"int8\"\nmisses = \"stream\"\n"));
  return artifact.path();
}

const std::filesystem::path &Artifacts::host() {
  static const CompiledArtifact artifact(
      kCanary + tier("full", pin("*", "bf16")) +
      tier("int8", pin("*", "int8"), "non_expert_format = \"int8\"\n") +
      tier("int4", pin("*", "int4"), "non_expert_format = \"int8\"\n"));
  return artifact.path();
}

const std::filesystem::path &Artifacts::misses() {
  static const CompiledArtifact artifact = [] {
    const std::string pins = pin("*.experts.0", "int4", "device") + pin("*", "int4", "host");
    std::string policy = kProfile + tier("all", pin("*", "int4", "device"));
    for (const char *strategy : {"stream", "in_place", "host_compute"})
      policy += tier(strategy, pins, std::string("misses = \"") + strategy + "\"\n");
    return CompiledArtifact(policy +
                            tier("cached", pins, "misses = \"cached\"\ncache_slots = 3\n"));
  }();
  return artifact.path();
}

const std::filesystem::path &Artifacts::cuda() {
  const std::string dense = "non_expert_format = \"int8\"\n";
  const std::string half = pin("*.experts.0", "int4", "host") + pin("*.experts.3", "int4", "host") +
                           pin("*.experts.5", "int4", "host") + pin("*.experts.6", "int4", "host") +
                           pin("*", "int4", "device");
  static const CompiledArtifact artifact(
      kProfile + "[targets]\ncuda = [\"sm_90a\"]\n" +
      tier("bf16", pin("*", "bf16", "device"), "non_expert_format = \"bf16\"\n") +
      tier("int8", pin("*", "int8", "device"), dense) +
      tier("int4", pin("*", "int4", "device"), dense) +
      tier("split", half, dense + "misses = \"in_place\"\n") +
      tier("stream", half, dense + "misses = \"stream\"\n") +
      tier("cached", half, dense + "misses = \"cached\"\ncache_slots = 2\n") +
      tier("host_compute", half, dense + "misses = \"host_compute\"\n"));
  return artifact.path();
}

const std::filesystem::path &Artifacts::planned() {
  static const CompiledArtifact artifact(
      kProfile + "context = 256\n[targets]\ncuda = [\"sm_90a\"]\n[[tier]]\nname = \"planned\"\n" +
      "misses = \"host_compute\"\ndevice_memory = \"509MiB\"\nprefer = \"quality\"\n");
  return artifact.path();
}

const std::filesystem::path &Artifacts::synthetic() {
  const std::string pins = pin("*.experts.0", "int4", "host") + pin("*", "int4", "device");
  static const CompiledArtifact artifact(
      kProfile + "[targets]\ncuda = [\"sm_90a\"]\n" +
          tier("split", pins, "non_expert_format = \"int8\"\nmisses = \"in_place\"\n") +
          tier("host_compute", pins, "non_expert_format = \"int8\"\nmisses = \"host_compute\"\n"),
      "--config " + kSource + "/examples/tiny-mixtral/config.json --synthetic 5");
  return artifact.path();
}

std::unique_ptr<Artifact> open(const std::filesystem::path &path) {
  auto artifact = Artifact::open(path);
  if (!artifact.ok())
    throw std::runtime_error(artifact.failure().message());
  return std::move(artifact).value();
}

size_t EventLog::count(moeplan_event_kind kind) const {
  const std::lock_guard lock(mutex_);
  return static_cast<size_t>(std::count_if(events_.begin(), events_.end(),
                                           [&](const Event &e) { return e.kind == kind; }));
}

Event EventLog::last(moeplan_event_kind kind) const {
  const std::lock_guard lock(mutex_);
  for (auto event = events_.rbegin(); event != events_.rend(); ++event)
    if (event->kind == kind)
      return *event;
  throw std::runtime_error(std::string("no event ") + moeplan_event_name(kind));
}

bool EventLog::waitFor(moeplan_event_kind kind, size_t wanted) const {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (count(kind) < wanted) {
    if (std::chrono::steady_clock::now() > end)
      return false;
    std::this_thread::yield();
  }
  return true;
}

Served::Served(const Artifact &artifact, const char *plan, std::string_view device,
               uint32_t context, uint32_t threads) {
  RuntimeOptions options;
  options.device = device;
  options.listener = log.listener();
  options.minSeconds = 0;
  options.bandwidthShare = 1;
  auto created = Runtime::create(artifact, std::move(options));
  if (!created.ok())
    throw std::runtime_error(created.failure().message());
  runtime = std::move(created).value();
  SessionOptions sessionOptions;
  sessionOptions.plan = plan;
  sessionOptions.contextLength = context;
  sessionOptions.threads = threads;
  auto made = runtime->createSession(sessionOptions);
  if (!made.ok())
    throw std::runtime_error(made.failure().message());
  session = made.value();
}

const std::vector<int32_t> &promptTokens() {
  static const std::vector<int32_t> tokens = {1, 449, 363, 261, 540, 632, 1614};
  return tokens;
}

namespace {

int32_t likeliest(const Session &session) {
  const float *logits = session.logits(0);
  return static_cast<int32_t>(std::max_element(logits, logits + session.vocabSize()) - logits);
}

} // namespace

void Served::prompt() {
  if (Status status = session->append(promptTokens(), 1); !status.ok())
    throw std::runtime_error(status.message());
  next_ = likeliest(*session);
}

std::vector<int32_t> Served::generate(size_t count) {
  if (session->position() == 0)
    prompt();
  std::vector<int32_t> tokens;
  while (tokens.size() < count) {
    tokens.push_back(next_);
    if (Status status = session->append({&next_, 1}, 1); !status.ok())
      throw std::runtime_error(status.message());
    next_ = likeliest(*session);
  }
  return tokens;
}

std::vector<int32_t> tokensOf(const Artifact &artifact, const char *plan, std::string_view device,
                              size_t count) {
  return Served(artifact, plan, device).generate(count);
}

uint64_t difference(const Artifact &artifact, const char *from, const char *to) {
  auto held = [&](const char *name) {
    const std::vector<Held> all = weightsOf(*artifact.plan(name).value()).all();
    return std::set<Held>(all.begin(), all.end());
  };
  const std::set<Held> before = held(from);
  uint64_t bytes = 0;
  for (const Held &one : held(to))
    if (!before.contains(one))
      bytes += artifact.metadata().segments()->Get(one.segment)->extent()->bytes();
  return bytes;
}

} // namespace moeplan::testing
