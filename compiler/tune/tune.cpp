#include "compiler/tune/tune.h"

#include "compiler/codegen/kernel_library.h"
#include "formats.h"
#include "runtime/artifact/synthetic_generator.h"
#include "runtime/device/affinity.h"
#include "runtime/device/cpu_features.h"
#include "runtime/device/kernel_module.h"
#include "runtime/device/memory.h"
#include "runtime/device/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <set>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

constexpr uint64_t kWeightBytes = uint64_t(256) << 20;
constexpr unsigned kRounds = 9;
/// A gain below this is noise: the default stays.
constexpr double kLeastGain = 1.02;
constexpr int64_t kPrefetchBytes[] = {0, 1024, 2048, 4096, 8192};
constexpr int64_t kUnrolls[] = {1, 2, 4};
constexpr int64_t kTileBytes[] = {128 << 10, 32 << 10, 64 << 10, 256 << 10, 512 << 10};

Error toError(const Status &status) { return createStringError(status.message()); }

/// One candidate: a product with each copy of the weight, one behind the other.
class Trial : public Phases {
public:
  Trial(moeplan_kernel_fn kernel, uint32_t tiles, uint32_t copies, const std::byte *weights,
        uint64_t weightBytes, float *x, float *y)
      : kernel_(kernel), tiles_(tiles) {
    for (uint32_t i = 0; i < copies; ++i)
      bindings_.push_back({x, x, const_cast<std::byte *>(weights) + i * weightBytes, y});
  }

  uint32_t count() const override { return static_cast<uint32_t>(bindings_.size()); }
  uint32_t tiles(uint32_t) const override { return tiles_; }
  void run(uint32_t phase, TileRange range) override {
    static constexpr moeplan_step kStep{1, 0, 0, 0};
    kernel_(bindings_[phase].data(), &kStep, range.begin, range.end);
  }

private:
  moeplan_kernel_fn kernel_;
  uint32_t tiles_;
  std::vector<std::array<void *, 4>> bindings_;
};

/// The weights of one format and the trials on them.
class FormatTuner {
public:
  FormatTuner(const TuneOptions &options, const CpuTarget &target, const FormatInfo &format,
              ThreadPool &pool)
      : options(options), target(target), format(format), pool(pool),
        rows(options.intermediateSize), weightBytes(*formatBytes(format, rows, options.hiddenSize)),
        copies(std::max<uint64_t>(kWeightBytes / weightBytes, 1)), x(options.hiddenSize, 0.5f),
        y(rows) {}

  Error allocate() {
    auto allocated = HostMemory::allocate(copies * weightBytes, "weights to tune on");
    if (!allocated.ok())
      return toError(allocated.failure());
    weights = std::move(allocated).value();
    SyntheticGenerator generator(1);
    const SyntheticWeight weight{"w", &format, uint64_t(rows), uint64_t(options.hiddenSize), false};
    generator.prepare(weight);
    for (uint64_t i = 0; i < copies; ++i)
      generator.fill(weight, 0, {weights.data() + i * weightBytes, weightBytes});
    return Error::success();
  }

  /// The index of the best candidate; the first is the default.
  Expected<size_t> best(ArrayRef<KernelTuning> candidates, function_ref<void()> afterTrial) {
    std::vector<KernelSpec> specs;
    std::vector<uint32_t> tiles;
    for (const KernelTuning &tuning : candidates) {
      const int64_t rowsPerTile = tuning.tileBytes /
                                  int64_t(formatRowBytes(format, options.hiddenSize)) /
                                  MOEPLAN_TILE_ROWS * MOEPLAN_TILE_ROWS;
      const int64_t perTile = std::clamp<int64_t>(rowsPerTile, MOEPLAN_TILE_ROWS, rows);
      const FormatTuning &own = tuning.of(format.id);
      tiles.push_back(uint32_t((rows + perTile - 1) / perTile));
      specs.push_back({"candidate_" + std::to_string(specs.size()),
                       "vector_linear",
                       {{"in_features", options.hiddenSize},
                        {"out_features", rows},
                        {"normalize", int64_t(0)},
                        {"epsilon", 0.0},
                        {"weight_format", int64_t(format.id)},
                        {"rows_per_tile", perTile},
                        {"accumulate", int64_t(0)},
                        {"logits_rows", int64_t(0)},
                        {"prefetch", own.prefetchBytes},
                        {"unroll", own.unroll}},
                       4});
    }
    auto library = compileKernels(specs, target);
    if (!library)
      return library.takeError();
    auto module = KernelModule::load(std::as_bytes(std::span(library->elf)));
    if (!module.ok())
      return toError(module.failure());
    std::vector<Trial> trials;
    for (size_t i = 0; i < specs.size(); ++i) {
      auto kernel = module.value()->kernel(specs[i].symbol);
      if (!kernel.ok())
        return toError(kernel.failure());
      trials.emplace_back(kernel.value(), tiles[i], uint32_t(copies), weights.data(), weightBytes,
                          x.data(), y.data());
    }
    return bestOf(trials, afterTrial);
  }

private:
  size_t bestOf(std::vector<Trial> &trials, function_ref<void()> afterTrial) {
    std::vector<std::vector<double>> gains(trials.size());
    for (unsigned round = 0; round < kRounds; ++round) {
      double usual = 0;
      for (size_t i = 0; i < trials.size(); ++i) {
        const auto begin = std::chrono::steady_clock::now();
        pool.run(trials[i]);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        if (i == 0)
          usual = seconds.count();
        if (round > 0) // the first one touches the memory
          gains[i].push_back(usual / seconds.count());
        afterTrial();
      }
    }
    size_t best = 0;
    double bestGain = kLeastGain;
    for (size_t i = 1; i < trials.size(); ++i) {
      std::sort(gains[i].begin(), gains[i].end());
      const double median = gains[i][gains[i].size() / 2];
      if (median > bestGain)
        best = i, bestGain = median;
    }
    return best;
  }

  const TuneOptions &options;
  const CpuTarget &target;
  const FormatInfo &format;
  ThreadPool &pool;
  int64_t rows;
  uint64_t weightBytes, copies;
  HostMemory weights;
  std::vector<float> x, y;
};

} // namespace

Expected<KernelTuning> moeplan::compiler::tuneKernels(const TuneOptions &options,
                                                      const CpuTarget &target) {
  if (const auto missing = missingCpuFeatures(target.features); !missing.empty())
    return createStringError("cannot tune for " + target.cpu + ": this machine lacks " +
                             missing.front());
  // One format stands for all of its width.
  std::vector<const FormatInfo *> formats;
  std::set<size_t> widths;
  for (moeplan_format format : options.formats)
    if (format != MOEPLAN_FORMAT_F32 && widths.insert(KernelTuning::widthOf(format)).second)
      formats.push_back(findFormat(uint32_t(format)));

  ThreadPool pool(options.threads ? options.threads : availablePhysicalCores());
  KernelTuning tuning;
  uint64_t done = 0;
  const uint64_t perFormat = std::size(kPrefetchBytes) * std::size(kUnrolls) * kRounds;
  const uint64_t total = formats.size() * perFormat + std::size(kTileBytes) * kRounds;
  auto afterTrial = [&] {
    if (options.progress)
      options.progress(++done, total);
  };
  for (const FormatInfo *format : formats) {
    FormatTuner tuner(options, target, *format, pool);
    if (Error error = tuner.allocate())
      return error;
    std::vector<KernelTuning> candidates{tuning};
    for (int64_t prefetch : kPrefetchBytes)
      for (int64_t unroll : kUnrolls) {
        const FormatTuning candidate{prefetch, unroll}, &usual = tuning.of(format->id);
        if (prefetch == usual.prefetchBytes && unroll == usual.unroll)
          continue;
        candidates.push_back(tuning);
        candidates.back().of(format->id) = candidate;
      }
    auto best = tuner.best(candidates, afterTrial);
    if (!best)
      return best.takeError();
    tuning = candidates[*best];
    if (format != formats.back())
      continue;
    candidates.clear();
    for (int64_t tile : kTileBytes) {
      candidates.push_back(tuning);
      candidates.back().tileBytes = tile;
    }
    best = tuner.best(candidates, afterTrial);
    if (!best)
      return best.takeError();
    tuning = candidates[*best];
  }
  return tuning;
}
