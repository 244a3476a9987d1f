#include "runtime/artifact/synthetic_weights.h"

#include "artifact_header.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <system_error>
#include <thread>

namespace moeplan {

namespace {

/// Bytes that a thread generates before it looks for more to do.
constexpr uint64_t kPartBytes = 16 << 20;

struct Part {
  SyntheticWeight weight;
  uint64_t begin; ///< in the weight
  std::span<std::byte> out;
};

void fill(const SyntheticGenerator &generator, const std::vector<Part> &parts, unsigned threads) {
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i = next++; i < parts.size(); i = next++)
      generator.fill(parts[i].weight, parts[i].begin, parts[i].out);
  };
  std::vector<std::jthread> helpers;
  try {
    while (helpers.size() + 1 < std::min<size_t>(threads, parts.size()))
      helpers.emplace_back(work);
  } catch (const std::system_error &) { // no more threads: those there are do it
  }
  work();
}

} // namespace

SyntheticWeight syntheticWeightOf(const fb::Segment &segment) {
  const auto &shape = *segment.shape();
  const bool isVector = shape.size() == 1;
  return {segment.name()->string_view(), findFormat(uint32_t(segment.format())),
          isVector ? 1 : shape.Get(0), shape.Get(shape.size() - 1), isVector};
}

SyntheticGenerator syntheticGeneratorOf(const fb::Artifact &artifact) {
  SyntheticGenerator generator(artifact.synthetic_seed().value_or(0));
  for (const fb::Segment *segment : *artifact.segments())
    if (segment->synthetic())
      generator.prepare(syntheticWeightOf(*segment));
  return generator;
}

Result<SyntheticWeights> SyntheticWeights::generate(const fb::Artifact &artifact,
                                                    const SyntheticGenerator &generator,
                                                    unsigned threads) {
  const auto &segments = *artifact.segments();
  std::vector<uint64_t> offsets(segments.size());
  uint64_t total = 0;
  for (uint32_t i = 0; i < segments.size(); ++i)
    if (segments.Get(i)->synthetic()) {
      offsets[i] = total;
      const uint64_t pages =
          (segments.Get(i)->extent()->bytes() + kMappedAlignment - 1) / kMappedAlignment;
      total += pages * kMappedAlignment;
    }
  // The system promises more memory than it has, and ends the process that uses it.
  if (const auto available = availableMemoryBytes(); available && *available < total)
    return exhausted("the synthetic weights take " + std::to_string(total) +
                     " bytes, the machine has " + std::to_string(*available) + " left");
  SyntheticWeights weights;
  MOEPLAN_ASSIGN(weights.memory_, HostMemory::allocate(total, "synthetic weights"));
  weights.memory_.useHugePages();
  weights.bytes_.resize(segments.size());

  std::vector<Part> parts;
  for (uint32_t i = 0; i < segments.size(); ++i) {
    const fb::Segment &segment = *segments.Get(i);
    if (!segment.synthetic())
      continue;
    const SyntheticWeight weight = syntheticWeightOf(segment);
    const uint64_t bytes = segment.extent()->bytes();
    weights.bytes_[i] = {weights.memory_.data() + offsets[i], bytes};
    for (uint64_t begin = 0; begin < bytes; begin += kPartBytes)
      parts.push_back(
          {weight, begin, weights.bytes_[i].subspan(begin, std::min(kPartBytes, bytes - begin))});
  }
  fill(generator, parts, threads);
  return weights;
}

} // namespace moeplan
