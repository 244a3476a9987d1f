#include "tests/unit/explore/example_frontier.h"

#include "llvm/Support/FormatVariadic.h"

#include <cmath>

namespace moeplan::testing {

using namespace compiler;

namespace {

constexpr uint64_t kHidden = 4096, kIntermediate = 14336;

/// Nats per token that a matrix in a format of `bits` costs in a layer, deeper ones more.
double natsOf(uint32_t bits, uint32_t layer, uint32_t numLayers, uint32_t numMatrices) {
  return 3.2 * std::exp2(-1.9 * bits) * (0.6 + double(layer) / numLayers) / numMatrices * 3;
}

struct Kind {
  std::string_view low, high; ///< formats of the cheap and of the dear matrices
  double dear;                ///< share of the latter
};

FrontierPoint makePoint(const ExampleShape &shape, std::string name, const Kind &kind,
                        uint64_t budget, bool paper) {
  FrontierPoint point;
  point.name = std::move(name);
  point.isPaper = paper;
  point.budgetBytes = budget;
  point.gap = paper ? 0 : 0.0012;
  const uint32_t count = shape.numLayers * shape.numExperts, numMatrices = 3 * count;
  const uint64_t other = uint64_t(shape.numLayers) * 50'000'000 + 500'000'000;
  MemoryUse &main = shape.hasDevice ? point.costs.device : point.costs.host;
  main = {other, uint64_t(shape.numLayers) * 16'777'216, 40'000'000, 0, 0};
  if (shape.hasDevice) {
    main.staging = 700'000'000;
    main.context = 450'000'000;
  }
  double deviceBytes = 0, hostBytes = 0, bits = 0;
  for (uint32_t layer = 0; layer < shape.numLayers; ++layer)
    for (uint32_t expert = 0; expert < shape.numExperts; ++expert) {
      ExpertPlacement placement;
      uint64_t bytes = 0;
      for (uint32_t matrix = 0; matrix < 3; ++matrix) {
        // The paper's planner gives all matrices of an expert one format, and does not look at
        // depth.
        const uint32_t seed =
            (layer * 131 + expert * 37 + (paper ? 0 : matrix * 53)) * 2654435761u >> 8;
        const double random = double(seed % 1000) / 1000;
        const double depth = paper ? 0.5 : 1 - double(layer) / shape.numLayers;
        const bool dear = 0.5 * random + 0.5 * depth < kind.dear;
        const FormatInfo *format = findFormat(dear ? kind.high : kind.low);
        placement.formats[matrix] = format;
        const uint64_t size = formatBytes(*format, kIntermediate, kHidden).value_or(0);
        bytes += size;
        bits += 8 * double(size) / double(kIntermediate * kHidden);
        point.costs.nats += natsOf(format->bits, layer, shape.numLayers, numMatrices);
      }
      if (shape.hasDevice && main.total() + bytes <= budget) {
        placement.residency = Residency::Device;
        main.weights += bytes;
        deviceBytes += double(bytes);
        ++point.costs.expertsOnDevice;
      } else {
        point.costs.host.weights += bytes;
        hostBytes += double(bytes);
      }
      point.placement.experts.push_back(placement);
    }
  PlacementCosts &costs = point.costs;
  const double share = 2.0 / shape.numExperts;
  costs.decodeSeconds = shape.hasDevice ? 0.004 + share * (deviceBytes / 900e9 + hostBytes / 40e9)
                                        : 0.01 + share * hostBytes / 28e9;
  costs.tokensPerSecond = 1 / costs.decodeSeconds;
  costs.prefillTokensPerSecond = 18 * costs.tokensPerSecond;
  costs.perplexityIncrease = std::expm1(costs.nats);
  costs.bitsPerWeight = bits / numMatrices;
  if (shape.hasDevice && costs.expertsOnDevice < count) {
    point.placement.miss = paper ? MissStrategy::Stream : MissStrategy::Cached;
    point.placement.cacheSlots = paper ? 0 : 2;
  }
  if (shape.measured) {
    const double increase = costs.perplexityIncrease * 0.93 + 0.0006;
    point.measured = {5.713 * (1 + increase), increase, 0.0004 + 0.06 * increase,
                      costs.tokensPerSecond * 0.94};
  }
  return point;
}

} // namespace

Frontier exampleFrontier(const ExampleShape &shape) {
  Frontier frontier;
  frontier.model = "mixtral-8x7b";
  frontier.profile = shape.hasDevice ? "workstation-24gb" : "desktop-cpu";
  frontier.qualitySource = "sensitivities of mixtral-8x7b.moestats, measured on 64 windows of text";
  frontier.numLayers = shape.numLayers;
  frontier.numExperts = shape.numExperts;
  frontier.numExpertsPerToken = 2;
  frontier.context = 4096;
  frontier.batch = 1;
  frontier.hasDevice = shape.hasDevice;
  if (shape.measured)
    frontier.referencePerplexity = 5.713;
  const double all = double(shape.numLayers) * shape.numExperts * 3 * kHidden * kIntermediate;
  auto budgetAt = [&](double bits) {
    return uint64_t(all * bits / 8 + shape.numLayers * 7e7 + 2e9);
  };
  auto label = [](std::string_view planner, uint64_t budget) {
    return llvm::formatv("{0}-{1:F2}GB", planner, double(budget) / 1e9).str();
  };
  for (bool paper : {false, true})
    for (uint32_t i = 0; i < (paper && !shape.paper ? 0 : shape.numBudgets); ++i) {
      const double at = shape.numBudgets > 1 ? double(i) / (shape.numBudgets - 1) : 0.5;
      const uint64_t budget = budgetAt(2.4 + 4 * at);
      const Kind kind = paper      ? Kind{"int4g128", "bf16", 0.25 + 0.3 * at}
                        : at < 0.4 ? Kind{"int2g64", "int4g64", 0.3 + 1.2 * at}
                                   : Kind{"int4g64", "int8g64", at};
      frontier.points.push_back(
          makePoint(shape, label(paper ? "paper" : "ours", budget), kind, budget, paper));
    }
  if (shape.tiers) {
    struct {
      const char *name;
      Kind kind;
      double bits;
    } tiers[] = {{"small", {"int2g64", "int3g64", 0.4}, 2.2},
                 {"balanced", {"int4g64", "int8g64", 0.12}, 4.4},
                 {"best", {"int8g32", "bf16", 0.1}, 6.6}};
    for (const auto &tier : tiers) {
      frontier.points.push_back(
          makePoint(shape, tier.name, tier.kind, budgetAt(tier.bits), /*paper=*/false));
      frontier.points.back().isTier = true;
    }
  }
  markFrontier(frontier);
  return frontier;
}

} // namespace moeplan::testing
