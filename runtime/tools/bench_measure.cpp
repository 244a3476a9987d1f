#include "runtime/tools/bench_measure.h"

#include "runtime/support/progress.h"
#include "runtime/tools/control.h"
#include "runtime/tools/rates.h"

#include <algorithm>
#include <random>

namespace moeplan::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t firstTokenRepetitions = 3;

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

/// Any ids do: the work of a dense layer does not depend on them, and random ones visit all
/// experts.
std::vector<int32_t> randomTokens(size_t count, uint32_t vocabSize) {
  std::mt19937 random(1); // fixed, and specified by the standard
  std::vector<int32_t> tokens(count);
  for (int32_t &token : tokens)
    token = static_cast<int32_t>(random() % vocabSize);
  return tokens;
}

MachineRates larger(const MachineRates &a, const MachineRates &b) {
  MachineRates rates{std::max(a.readBandwidth, b.readBandwidth)};
  for (size_t i = 0; i < rates.peaks.size(); ++i)
    rates.peaks[i] = std::max(a.peaks[i], b.peaks[i]);
  return rates;
}

void addWork(moeplan_work &sum, const moeplan_work &more) {
  sum.weight_bytes += more.weight_bytes;
  sum.host_bytes += more.host_bytes;
  sum.cache_bytes += more.cache_bytes;
  for (const Arithmetic &arithmetic : arithmetics)
    sum.*arithmetic.operations += more.*arithmetic.operations;
}

/// A session with the tokens it is measured with.
class Workload {
public:
  Workload(const BenchOptions &options, moeplan_runtime &runtime, moeplan_session &session,
           uint32_t vocabSize)
      : options_(options), session_(session),
        meter_(options.device, runtime, moeplan_session_threads(&session)),
        prompt_(randomTokens(options.promptTokens, vocabSize)),
        generated_(randomTokens(options.genTokens, vocabSize)) {}

  void measureRates(Measurement &result);
  void measureKernels(Measurement &result);

private:
  /// `append(tokens, count, logits_count)` for the prompt, or for one decode step after the other.
  template <typename Append> void prefill(Append &&append) {
    append(prompt_.data(), prompt_.size(), size_t{1});
  }
  template <typename Append> void decode(Append &&append) {
    for (size_t done = 0; done < generated_.size(); done += options_.batch)
      append(generated_.data() + done, size_t{options_.batch}, size_t{options_.batch});
  }
  void countWork(Measurement &result);
  void measureKernels(Measurement &result, const char *phase, const std::vector<int32_t> &tokens,
                      size_t count, size_t logitsCount);

  const BenchOptions &options_;
  moeplan_session &session_;
  RateMeter meter_;
  std::vector<int32_t> prompt_, generated_;
};

/// Touches the weights and the KV cache for the first time besides.
void Workload::countWork(Measurement &result) {
  auto counting = [&](moeplan_work &total) {
    return [&](const int32_t *tokens, size_t count, size_t logitsCount) {
      moeplan_work work{};
      check(moeplan_session_append_counted(&session_, tokens, count, logitsCount, &work));
      addWork(total, work);
    };
  };
  moeplan_session_reset(&session_);
  prefill(counting(result.prefillWork));
  decode(counting(result.decodeWork));
}

void Workload::measureRates(Measurement &result) {
  const size_t tokens = prompt_.size() + generated_.size();
  auto append = [&](const int32_t *tokens, size_t count, size_t logitsCount) {
    check(moeplan_session_append(&session_, tokens, count, logitsCount));
  };
  Progress progress("bench", (uint64_t{options_.repetitions} + 1) * tokens, "tokens");
  countWork(result);
  progress.advance(tokens);
  const bool usesLink = meter_.isGpu() && result.decodeWork.host_bytes > 0;
  std::vector<double> prefills, decodes, bandwidths, bandwidthShares, arithmeticShares, links,
      linkShares;
  std::array<std::vector<double>, arithmetics.size()> peaks;
  for (uint32_t repetition = 0; repetition < options_.repetitions; ++repetition) {
    moeplan_session_reset(&session_);
    // Other work on the machine only ever lowers what is measured: the larger of two counts.
    MachineRates before{.peaks = meter_.arithmeticPeaks()};
    auto start = Clock::now();
    prefill(append);
    const double prefillSeconds = std::max(secondsSince(start), 1e-9);
    MachineRates after{.peaks = meter_.arithmeticPeaks()};
    progress.advance(prompt_.size());

    before.readBandwidth = meter_.readBandwidth();
    const uint64_t fetchedBefore = meter_.fetchedBytes();
    start = Clock::now();
    decode(append);
    const double decodeSeconds = std::max(secondsSince(start), 1e-9);
    const uint64_t fetched = meter_.fetchedBytes() - fetchedBefore;
    after.readBandwidth = meter_.readBandwidth();
    if (usesLink) {
      result.linkBytes = fetched > 0 ? fetched : result.decodeWork.host_bytes;
      links.push_back(meter_.linkBandwidth());
      linkShares.push_back(static_cast<double>(result.linkBytes) / links.back() / decodeSeconds);
    }
    progress.advance(generated_.size());

    const MachineRates rates = larger(before, after);
    prefills.push_back(static_cast<double>(prompt_.size()) / prefillSeconds);
    decodes.push_back(static_cast<double>(generated_.size()) / decodeSeconds);
    bandwidths.push_back(rates.readBandwidth);
    bandwidthShares.push_back(static_cast<double>(result.decodeWork.weight_bytes) /
                              rates.readBandwidth / decodeSeconds);
    arithmeticShares.push_back(rates.arithmeticSeconds(result.prefillWork) / prefillSeconds);
    for (size_t i = 0; i < peaks.size(); ++i)
      peaks[i].push_back(rates.peaks[i]);
  }
  progress.finish();
  result.prefill = spread(prefills);
  result.decode = spread(decodes);
  result.readBandwidth = spread(bandwidths);
  result.bandwidthShare = spread(bandwidthShares);
  result.arithmeticShare = spread(arithmeticShares);
  if (usesLink) {
    result.linkBandwidth = spread(links);
    result.linkShare = spread(linkShares);
  }
  std::transform(peaks.begin(), peaks.end(), result.peaks.begin(), spread);
}

void Workload::measureKernels(Measurement &result) {
  moeplan_session_reset(&session_);
  measureKernels(result, "prefill", prompt_, prompt_.size(), 1);
  measureKernels(result, "decode", generated_, options_.batch, options_.batch);
}

void Workload::measureKernels(Measurement &result, const char *phase,
                              const std::vector<int32_t> &tokens, size_t count,
                              size_t logitsCount) {
  char *text = nullptr;
  const MachineRates before{meter_.readBandwidth(), meter_.arithmeticPeaks()};
  check(moeplan_session_measure_kernels(&session_, tokens.data(), count, logitsCount,
                                        options_.repetitions, &text));
  const Owned<char> owner(text);
  const MachineRates rates = larger(before, {meter_.readBandwidth(), meter_.arithmeticPeaks()});
  const auto kernels = nlohmann::json::parse(text);
  // What a GPU's plan lets the CPU compute has the CPU's floor.
  const auto isOnHost = [&](const nlohmann::json &kernel) {
    return meter_.isGpu() && kernel["machine"] == "cpu";
  };
  const MachineRates host =
      std::any_of(kernels.begin(), kernels.end(), isOnHost)
          ? MachineRates{meter_.hostReadBandwidth(), meter_.hostArithmeticPeaks()}
          : MachineRates();
  double total = 0;
  for (const auto &kernel : kernels)
    total += kernel["seconds"].get<double>();
  for (const auto &kernel : kernels) {
    KernelMeasurement row{phase, kernel["kernel"], kernel["implementation"]};
    row.dispatches = kernel["dispatches"];
    row.seconds = kernel["seconds"];
    row.timeShare = row.seconds / total;
    row.work.weight_bytes = kernel["weight_bytes"];
    row.work.cache_bytes = kernel["cache_bytes"];
    for (const Arithmetic &arithmetic : arithmetics)
      row.work.*arithmetic.operations = kernel[std::string(arithmetic.name) + "_operations"];
    row.floorShare = (isOnHost(kernel) ? host : rates).floorSeconds(row.work) / row.seconds;
    result.kernels.push_back(std::move(row));
  }
}

/// From opening the file to the logits of the first token, with the file in memory.
Spread measureFirstToken(const BenchOptions &options, uint32_t contextLength) {
  std::vector<double> seconds;
  for (uint32_t repetition = 0; repetition < firstTokenRepetitions; ++repetition) {
    const auto start = Clock::now();
    const auto artifact = openAndLoad(options.artifact, options.plan, options.loading);
    Control control(*artifact, {.device = options.device}, {});
    const auto session =
        createSession(*artifact, options.plan, contextLength, options.threads, &control.runtime());
    const int32_t token = 0;
    check(moeplan_session_append(session.get(), &token, 1, 1));
    seconds.push_back(secondsSince(start));
  }
  return spread(seconds);
}

} // namespace

double MachineRates::arithmeticSeconds(const moeplan_work &work) const {
  double seconds = 0;
  for (const Arithmetic &arithmetic : arithmetics)
    if (peaks[arithmetic.id] > 0)
      seconds += static_cast<double>(work.*arithmetic.operations) / peaks[arithmetic.id];
  return seconds;
}

double MachineRates::floorSeconds(const moeplan_work &work) const {
  const double bytes = static_cast<double>(work.weight_bytes + work.cache_bytes);
  return std::max(bytes / readBandwidth, arithmeticSeconds(work));
}

double KernelMeasurement::bytesPerSecond() const {
  return static_cast<double>(work.weight_bytes + work.cache_bytes) / seconds;
}

double KernelMeasurement::operationsPerSecond() const {
  double operations = 0;
  for (const Arithmetic &arithmetic : arithmetics)
    operations += static_cast<double>(work.*arithmetic.operations);
  return operations / seconds;
}

Measurement measureBench(const BenchOptions &options) {
  const uint64_t positions = uint64_t{options.promptTokens} + options.genTokens;
  if (positions > UINT32_MAX)
    throw Failure("--prompt-tokens and --gen-tokens are too large together");
  if (options.genTokens % options.batch != 0)
    throw Failure("--gen-tokens " + std::to_string(options.genTokens) +
                  " is no multiple of --batch " + std::to_string(options.batch));
  const auto contextLength = static_cast<uint32_t>(positions);
  const auto artifact = openAndLoad(options.artifact, options.plan, options.loading);
  Control control(*artifact, {.device = options.device}, {});
  const auto session =
      createSession(*artifact, options.plan, contextLength, options.threads, &control.runtime());
  Measurement result;
  result.syntheticSeed = syntheticSeed(*artifact);
  result.plan = moeplan_session_plan_name(session.get());
  result.targetCpu = moeplan_session_target_cpu(session.get());
  result.threads = moeplan_session_threads(session.get());
  result.bytesPerToken = moeplan_session_weight_bytes_per_token(session.get());
  Workload workload(options, control.runtime(), *session,
                    moeplan_artifact_model_info(artifact.get()).vocab_size);
  workload.measureRates(result);
  if (options.kernels)
    workload.measureKernels(result);
  if (result.syntheticSeed.is_null())
    result.firstTokenSeconds = measureFirstToken(options, contextLength);
  return result;
}

} // namespace moeplan::tools
