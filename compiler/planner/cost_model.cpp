#include "compiler/planner/cost_model.h"

#include "llvm/ADT/STLExtras.h"

#include <cmath>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Tokens that a prompt goes through the model in at a time: the largest program's.
constexpr double kPrefillChunk = 512;
/// Swap buffers for streamed experts: one is filled while the other is read.
constexpr uint64_t kSwapBuffers = 2;

bool isExpertTensor(StringRef name) { return name.contains(".block_sparse_moe.experts."); }
bool isRouterGate(StringRef name) { return name.ends_with(".block_sparse_moe.gate.weight"); }
bool isEmbedding(StringRef name) { return name == "model.embed_tokens.weight"; }

} // namespace

CostModel::CostModel(const MixtralConfig &config, QualityModel quality,
                     std::optional<Profile> profile, const WorkloadInfo &workload)
    : config_(config), quality_(std::move(quality)), profile_(std::move(profile)),
      workload_(workload) {
  if (!workload_.nonExpertFormat)
    workload_.nonExpertFormat = findFormat(uint32_t(MOEPLAN_FORMAT_BF16));
  const FormatInfo &vectors = *findFormat(uint32_t(MOEPLAN_FORMAT_F32));
  for (const auto &[name, shape] : expectedTensors(config_)) {
    if (isExpertTensor(name))
      continue;
    const bool isMatrix = shape.size() == 2 && !isRouterGate(name);
    const FormatInfo &format = isMatrix ? *workload_.nonExpertFormat : vectors;
    const uint64_t rows = shape.size() == 1 ? 1 : shape[0], columns = shape.back();
    const uint64_t bytes = *formatBytes(format, rows, columns);
    nonExpertBytes_ += bytes;
    if (isEmbedding(name) && !config_.tieWordEmbeddings)
      continue; // a row of it per token
    (isMatrix ? matrixReadBytes_ : vectorReadBytes_) += bytes;
    if (isMatrix)
      nonExpertElements_ += rows * columns;
  }
  for (uint32_t expert = 0; expert < numExperts(); ++expert)
    usage_.push_back(1 - std::pow(1 - std::min(quality_.routing(expert), 1.0), workload_.batch));
}

uint64_t CostModel::bytes(Linear linear, const FormatInfo &format) const {
  const uint64_t hidden = config_.hiddenSize, intermediate = config_.intermediateSize;
  return linear == Linear::w2 ? *formatBytes(format, hidden, intermediate)
                              : *formatBytes(format, intermediate, hidden);
}

uint64_t CostModel::bytes(const ExpertPlacement &expert) const {
  uint64_t sum = 0;
  for (Linear linear : kLinears)
    sum += bytes(linear, *expert.formats[size_t(linear)]);
  return sum;
}

uint64_t CostModel::expertElements() const {
  return uint64_t(3) * config_.hiddenSize * config_.intermediateSize;
}

MemoryUse CostModel::fixedUse() const {
  MemoryUse use;
  use.weights = nonExpertBytes_;
  const auto layer = kvLayerBytes(workload_.kvFormat, workload_.context, config_.numKeyValueHeads,
                                  config_.headDim);
  use.kvCache = 2 * layer.value_or(0) * config_.numLayers * workload_.batch;
  use.activations = workload_.activationBytes;
  use.context = profile_ ? main().contextBytes : 0;
  return use;
}

uint64_t CostModel::stagingBytes(MissStrategy strategy, uint32_t cacheSlots,
                                 uint64_t largest) const {
  switch (strategy) {
  case MissStrategy::Stream:
    return kSwapBuffers * largest;
  case MissStrategy::Cached:
    return (uint64_t(cacheSlots) * config_.numLayers + 1) * largest;
  default:
    return 0;
  }
}

double CostModel::cachedShare(const Processor &processor, uint64_t weights) {
  return weights == 0 ? 1 : std::min(1.0, double(processor.cacheBytes) / double(weights));
}

double CostModel::readSeconds(const Processor &processor, const FormatInfo &format, uint64_t bytes,
                              double cachedShare) const {
  const KernelRate *rate = processor.rate(format);
  if (!rate) // no kernel was measured: what memory gives
    return double(bytes) / processor.readBytesPerSecond;
  const double cached = rate->decodeCachedBytesPerSecond > 0 ? rate->decodeCachedBytesPerSecond
                                                             : rate->decodeBytesPerSecond;
  return double(bytes) * (cachedShare / cached + (1 - cachedShare) / rate->decodeBytesPerSecond);
}

double CostModel::fixedSeconds(double cachedShare) const {
  const Processor &p = main();
  const auto layer = kvLayerBytes(workload_.kvFormat, std::max(1u, workload_.context / 2),
                                  config_.numKeyValueHeads, config_.headDim);
  double cache = 2.0 * double(layer.value_or(0)) * config_.numLayers * double(workload_.batch);
  if (!hasDevice())
    cache *= double(config_.numAttentionHeads) / config_.numKeyValueHeads;
  return p.tokenSeconds + config_.numLayers * p.layerSeconds +
         (p.kvBytesPerSecond > 0 ? cache / p.kvBytesPerSecond : 0) +
         readSeconds(p, *workload_.nonExpertFormat, matrixReadBytes_, cachedShare) +
         double(vectorReadBytes_) / p.readBytesPerSecond;
}

double CostModel::linearSeconds(Linear linear, const FormatInfo &format, Residency residency,
                                MissStrategy strategy, double hit, double cachedShare) const {
  const uint64_t size = bytes(linear, format);
  if (residency == Residency::Device || !hasDevice())
    return readSeconds(main(), format, size, cachedShare);
  const TransferRates &transfer = profile_->transfer;
  switch (strategy) {
  case MissStrategy::None:
  case MissStrategy::Stream:
    return double(size) / transfer.pinnedBytesPerSecond +
           readSeconds(*profile_->device, format, size, cachedShare);
  case MissStrategy::InPlace:
    return double(size) / transfer.inPlaceBytesPerSecond;
  case MissStrategy::HostCompute:
    return readSeconds(profile_->host, format, size, /*cachedShare=*/0);
  case MissStrategy::Cached:
    return (1 - hit) * double(size) / transfer.pinnedBytesPerSecond +
           readSeconds(*profile_->device, format, size, cachedShare);
  }
  return 0;
}

double CostModel::missSeconds(MissStrategy strategy, double hit) const {
  switch (strategy) {
  case MissStrategy::Stream:
  case MissStrategy::HostCompute:
    return profile_->transfer.latencySeconds;
  case MissStrategy::Cached:
    return (1 - hit) * profile_->transfer.latencySeconds;
  default:
    return 0;
  }
}

std::vector<double> CostModel::hitProbabilities(ArrayRef<uint32_t> hosts, uint32_t slots) const {
  std::vector<double> hits(hosts.size(), 1);
  if (slots >= hosts.size())
    return hits;
  // The time T after which an expert that was not used is gone: sum of 1 - exp(-p T) = slots.
  auto occupied = [&](double time) {
    double sum = 0;
    for (uint32_t expert : hosts)
      sum += 1 - std::exp(-quality_.routing(expert) * time);
    return sum;
  };
  double low = 0, high = 1;
  while (occupied(high) < slots && high < 1e12)
    high *= 2;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (occupied(middle) < slots ? low : high) = middle;
  }
  for (auto [hit, expert] : zip_equal(hits, hosts))
    hit = 1 - std::exp(-quality_.routing(expert) * high);
  return hits;
}

double CostModel::prefillSecondsPerToken(const Placement &placement) const {
  const Processor &p = main();
  auto seconds = [](const Processor &processor, const FormatInfo &format, double operations) {
    const KernelRate *rate = processor.rate(format);
    return rate ? operations / rate->prefillOperationsPerSecond : 0;
  };
  double sum = config_.numLayers * p.prefillLayerSeconds +
               seconds(p, *workload_.nonExpertFormat, 2.0 * double(nonExpertElements_));
  const double linearOperations = 2.0 * double(expertElements()) / 3;
  for (auto [index, expert] : enumerate(placement.experts)) {
    for (Linear linear : kLinears)
      sum +=
          quality_.routing(index) * seconds(p, *expert.formats[size_t(linear)], linearOperations);
    // A chunk brings every expert that it uses over the bus once; one of 512 tokens uses them all.
    // What the host computes for single tokens, prompts read in place.
    const bool inPlace =
        placement.miss == MissStrategy::InPlace || placement.miss == MissStrategy::HostCompute;
    if (hasDevice() && expert.residency == Residency::Host)
      sum += double(bytes(expert)) / kPrefillChunk /
             (inPlace ? profile_->transfer.inPlaceBytesPerSecond
                      : profile_->transfer.pinnedBytesPerSecond);
  }
  return sum;
}

PlacementCosts CostModel::evaluate(const Placement &placement) const {
  PlacementCosts costs;
  MemoryUse &home = hasDevice() ? costs.device : costs.host;
  home = fixedUse();
  uint64_t expertBytes = 0, largestMiss = 0;
  std::vector<std::vector<uint32_t>> hosts(config_.numLayers); // by layer
  for (auto [index, expert] : enumerate(placement.experts)) {
    const uint64_t size = bytes(expert);
    expertBytes += size;
    for (Linear linear : kLinears)
      costs.nats += quality_.nats(index, linear, *expert.formats[size_t(linear)]);
    if (hasDevice() && expert.residency == Residency::Device) {
      costs.device.weights += size;
      ++costs.expertsOnDevice;
      continue;
    }
    costs.host.weights += size;
    if (hasDevice()) {
      largestMiss = std::max(largestMiss, size);
      hosts[index / config_.numExperts].push_back(index);
    }
  }
  costs.device.staging = stagingBytes(placement.miss, placement.cacheSlots, largestMiss);
  costs.perplexityIncrease = std::expm1(costs.nats);
  costs.bitsPerWeight = 8.0 * double(expertBytes) / double(expertElements()) / double(numExperts());
  if (!hasTimes())
    return costs;

  const double share = cachedShare(main(), home.weights);
  std::vector<double> hits(placement.experts.size(), 0);
  if (placement.miss == MissStrategy::Cached)
    for (ArrayRef<uint32_t> layer : hosts)
      for (auto [expert, hit] : zip_equal(layer, hitProbabilities(layer, placement.cacheSlots)))
        hits[expert] = hit;
  costs.decodeSeconds = fixedSeconds(share);
  for (auto [index, expert] : enumerate(placement.experts)) {
    double seconds = 0;
    for (Linear linear : kLinears)
      seconds += linearSeconds(linear, *expert.formats[size_t(linear)], expert.residency,
                               placement.miss, hits[index], share);
    if (hasDevice() && expert.residency == Residency::Host)
      seconds += missSeconds(placement.miss, hits[index]);
    costs.decodeSeconds += usage_[index] * seconds;
  }
  costs.tokensPerSecond = workload_.batch / costs.decodeSeconds;
  costs.prefillTokensPerSecond = 1 / prefillSecondsPerToken(placement);
  return costs;
}
